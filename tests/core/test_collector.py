"""The collector is paused, or looks at less, inside; and is as it was outside."""

import gc

import pytest

from autocompress.core.collector import collector_paused, rest_set_aside


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        with collector_paused():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
        with pytest.raises(ValueError, match="inside"), collector_paused():
            raise ValueError("inside")
        assert gc.isenabled() == enabled
    finally:
        gc.enable() if before else gc.disable()


def test_what_was_there_is_set_aside_and_comes_back() -> None:
    before = gc.get_freeze_count()
    kept = [[number] for number in range(100)]
    with rest_set_aside():
        assert gc.get_freeze_count() > before + len(kept)
        with pytest.raises(ValueError, match="inside"), rest_set_aside():
            raise ValueError("inside")
    assert gc.get_freeze_count() == 0
