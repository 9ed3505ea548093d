"""What a learning rate may be."""

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import real


def check_rate(rate: object, option: str) -> float:
    """Refuse what is no learning rate; optimizers that find their own step size take a rate of 1.

    Raises:
        UserError: It is no number above 0 and up to 1.
    """
    try:
        return real(rate, option, above=0, high=1)
    except UserError as error:
        message = (
            f"{rate} is out of range; give one above 0 and up to 1" if type(rate) is float else error.message
        )
        raise UserError(f"{message}; the recipe's rate is 2e-6", option) from error
