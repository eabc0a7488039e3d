"""What a run with a GPU asks Kubernetes for."""

import json
import os

from assets.lib.home import UserError

VARIABLE = "DALLE_GPU_POD"
# Dagster's K8sRunLauncher adds the tag's value to the pod; every other launcher leaves it alone.
_TAG = "dagster-k8s/config"


def gpu_pod() -> dict[str, str]:
    """Tags of a job that needs a GPU; none unless the environment says what its pod is like.

    Raises:
        UserError: if DALLE_GPU_POD is no JSON object.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return {}
    try:
        pod = json.loads(text)
    except json.JSONDecodeError:
        pod = None
    if not isinstance(pod, dict):
        raise UserError(
            f"{VARIABLE} is no JSON object; write it as deploy/kubernetes/values.yaml does"
        )
    return {_TAG: json.dumps(pod)}
