from lightning_drift.common.seldom import SHARE, Seldom


class Day:
    """A clock that passes by hand, and an action that takes of it."""

    def __init__(self, takes: float) -> None:
        self.now, self.takes, self.done = 0.0, takes, 0

    def act(self) -> None:
        self.now += self.takes
        self.done += 1


def test_what_takes_long_is_done_at_once_first_and_then_for_a_small_part_of_the_time() -> None:
    day = Day(takes=2.0)
    page = Seldom(day.act, lambda: day.now)
    page.catch_up()
    assert day.done == 0  # nobody has asked
    page.ask()
    assert day.done == 1
    for _ in range(4000):
        day.now += 1.0
        page.ask()
    assert 0.9 * SHARE < day.takes * (day.done - 1) / day.now <= SHARE


def test_what_was_asked_for_too_early_is_made_up_for_once() -> None:
    day = Day(takes=1.0)
    page = Seldom(day.act, lambda: day.now)
    page.ask()
    page.ask()
    page.catch_up()
    assert day.done == 1
    day.now += 1.0 / SHARE
    page.catch_up()
    page.catch_up()
    assert day.done == 2
