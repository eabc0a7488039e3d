"""Moves of the pointer: promote, overrule, roll back."""

from pipelines.layout import Layout
from training.promotion import log, versions
from training.promotion.comparison import Check, Comparison
from training.promotion.log import Action, Entry, PromotionError


class RefusedError(PromotionError):
    """The model did not pass; the promoted one stays."""


def promote(layout: Layout, found: Comparison, *, who: str, why: str) -> Entry:
    """Promote a model that passed every check; nothing moves if it is the promoted one.

    Raises:
        RefusedError: if it did not pass.
        PromotionError: if the comparison is not of what is there now.
    """
    if found.found:
        raise RefusedError(_refusal(found))
    return _move(layout, found, Action.PROMOTED, who, why)


def overrule(layout: Layout, found: Comparison, *, who: str, why: str) -> Entry:
    """Promote a model although it did not pass.

    Raises:
        RefusedError: if its weights are not finite.
        PromotionError: if there is no reason, nothing to overrule, or as for `promote`.
    """
    _require_reason(why)
    if found.problems[Check.WEIGHTS_FINITE]:
        raise RefusedError(f"{_refusal(found)}; this cannot be overruled: train it again")
    if not found.found:
        raise PromotionError(
            "the model passed every check; promote it, there is nothing to overrule"
        )
    return _move(layout, found, Action.OVERRULED, who, why)


def roll_back(layout: Layout, version: str, *, who: str, why: str) -> Entry:
    """Promote a version that is kept; the one it replaces is then refused unless overruled.

    Args:
        layout: of the data root.
        version: name of a version; empty for the one promoted before.
        who: does it.
        why: in words; required.

    Raises:
        PromotionError: if there is no such version or no reason, or its files are damaged.
    """
    _require_reason(why)
    with versions.only_promotion(layout):
        entries = log.history(layout)
        if not entries:
            raise PromotionError(f"nothing was promoted below {layout.root} yet")
        name = version.removeprefix("v=")
        known = {entry.model.version: entry.model for entry in entries}
        model = known.get(name) if name else log.before(entries)
        if model is None or model.version == entries[-1].model.version:
            named = ", ".join(f"v={v}" for v in known if v != entries[-1].model.version)
            raise PromotionError(f"v={name} is not an earlier one; there are: {named or 'none'}")
        versions.verify(layout, model.version)
        entry = log.append(layout, entries[-1], Action.ROLLED_BACK, model, who=who, why=why)
    if model.version not in versions.kept(layout):
        # No lock spans machines.
        raise PromotionError(
            f"v={model.version} is promoted now, and was removed at the same time; roll back to "
            "another one"
        )
    return entry


def require_current(layout: Layout, found: Comparison) -> Entry | None:
    """The promoted entry, which must be the one that was compared with.

    Raises:
        PromotionError: if another one was promoted since.
    """
    promoted = log.current(layout)
    if (promoted.number if promoted else 0) != found.number:
        raise PromotionError("another model was promoted since the comparison; compare again")
    return promoted


def _move(layout: Layout, found: Comparison, action: Action, who: str, why: str) -> Entry:
    with versions.only_promotion(layout):
        promoted = require_current(layout, found)
        if promoted is not None and promoted.model.version == found.candidate.version:
            return promoted
        versions.keep(layout, found.candidate)
        return log.append(
            layout, promoted, action, found.candidate,
            who=who, why=why, figures=found.figures, overruled=found.found,
        )  # fmt: skip


def _refusal(found: Comparison) -> str:
    return f"v={found.candidate.version} is refused: {'; '.join(found.found)}"


def _require_reason(why: str) -> None:
    if not why.strip():
        raise PromotionError("say why with --reason; it stays in the log")
