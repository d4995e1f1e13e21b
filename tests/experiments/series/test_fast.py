"""Training FLOPs are those of the architecture, and the recipe stays within its budget."""

from PIL import Image

from alzmri.experiments.series import plans
from alzmri.experiments.series.fast import SHARE, Curve, draw, flops_per_slice


def test_flops_are_three_passes_less_the_gradient_of_the_pixels():
    # Multiply-adds of a forward pass at 32 px, by the table in AlexNet's docstring.
    first = 32 * 32 * 64 * 11 * 11
    others = (
        15 * 15 * 192 * 64 * 5 * 5
        + 7 * 7 * 9 * (384 * 192 + 256 * 384 + 256 * 256)
        + 256 * 3 * 3 * 4096
        + 4096 * 4096
        + 4096 * 4
    )
    assert flops_per_slice("alexnet", 4, 32) == 2 * (3 * others + 2 * first)


def test_the_recipe_stays_within_an_eighth_of_the_published_compute():
    *recipes, protocol = (run.params for run in plans.fast("kaggle", plans.FULL, {}).values())
    for used in recipes:
        curve = Curve(used, [0.0] * used.train.epochs, slices=1)
        assert curve.flops[-1] <= SHARE * curve.published()
    curve = Curve(protocol, [0.0] * protocol.train.epochs, slices=1)
    assert curve.flops[77] == curve.published()


def test_the_first_epoch_at_the_goal_is_told(make_params):
    used = make_params()
    assert Curve(used, [0.5, 0.99, 0.98, 1.0], 10).reached == 2
    assert Curve(used, [0.5, 0.98], 10).reached is None


def test_the_figure_is_drawn_when_nothing_comes_near_the_goal(tmp_path, make_params):
    used = make_params()
    recipes, protocol = [Curve(used, [0.1], 9), Curve(used, [0.2], 9)], Curve(used, [0.1, 0.2], 9)
    path = tmp_path / "fast.png"
    draw(path, "phantom", recipes, protocol)
    with Image.open(path) as image:
        assert min(image.size) > 400
