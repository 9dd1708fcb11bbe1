"""What a layer or a loss of your own must pass, as those of nnframe do: one line in a test.

    from nnframe.testing import check_layer, check_loss

    def test_scale():
        check_layer(lambda: Scale(4), (4,))

    def test_huber():
        check_loss(Huber, (3,))

`checks` gives the same as single tests, for `pytest.mark.parametrize`. pytest itself is not needed.
"""

from nnframe.testing.suite import check_layer, check_loss, checks

__all__ = ["check_layer", "check_loss", "checks"]
