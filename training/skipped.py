"""Updates that are left out because a gradient is not finite."""

from training.errors import InputError

# So many in a row mean that no later batch, and no smaller scale, will help.
MOST = 1000


class Skipped:
    """Counts updates that were left out one after the other."""

    def __init__(self) -> None:
        self.in_a_row = 0

    def count(self, usable: bool) -> None:
        """Note whether an update was made.

        Raises:
            InputError: after `MOST` in a row that were not.
        """
        self.in_a_row = 0 if usable else self.in_a_row + 1
        if self.in_a_row >= MOST:
            raise InputError(
                f"the gradients of {MOST} updates in a row were not finite, so none was made; "
                "train with a smaller step size, or in bf16 or fp32"
            )
