# SPDX-License-Identifier: Apache-2.0

from nova.image import observe
from nova import test


class TestObserver(test.NoDBTestCase):
    def test_in_place_for_the_time_of_a_block(self) -> None:
        default = observe.current()
        outer, inner = observe.Observer(), observe.Observer()
        with observe.watched_by(outer):
            with observe.watched_by(inner):
                self.assertIs(inner, observe.current())
            self.assertIs(outer, observe.current())
        self.assertIs(default, observe.current())

    def test_gone_after_an_error(self) -> None:
        default = observe.current()

        def fail() -> None:
            with observe.watched_by(observe.Observer()):
                raise KeyError

        self.assertRaises(KeyError, fail)
        self.assertIs(default, observe.current())
