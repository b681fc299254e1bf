import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from luthier.core.errors import UserError
from luthier.recipe.losses import balanced_weights, make_loss

LOGITS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(5, (40,), generator=torch.Generator().manual_seed(1))
SOFT = torch.rand(40, 5, generator=torch.Generator().manual_seed(2)).softmax(1)


def loss(targets=LABELS, task="classification", **knobs):
    return make_loss(task, knobs, LABELS, 5)(LOGITS, targets)


def test_the_default_is_the_mean_cross_entropy():
    assert torch.equal(loss(), F.cross_entropy(LOGITS, LABELS))
    assert torch.equal(loss(SOFT), F.cross_entropy(LOGITS, SOFT))


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_is_its_formula(gamma):
    p = LOGITS.double().softmax(1)[torch.arange(40), LABELS]
    expected = (-((1 - p) ** gamma) * p.log()).mean()
    assert float(loss(loss="focal", focal_gamma=gamma)) == pytest.approx(float(expected), rel=1e-5)


def test_focal_has_gamma_2_unless_told():
    assert torch.equal(loss(loss="focal"), loss(loss="focal", focal_gamma=2))
    assert loss(loss="focal") < loss()


@pytest.mark.parametrize("targets", [LABELS, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_focal_without_gamma_is_cross_entropy_and_nearly_so_next_to_it(targets, weights, smoothing):
    shared = {"class_weights": weights, "label_smoothing": smoothing}
    assert torch.equal(loss(targets, loss="focal", focal_gamma=0, **shared), loss(targets, **shared))
    # Through the focal formula itself, not the short cut at 0.
    near = loss(targets, loss="focal", focal_gamma=1e-7, **shared)
    torch.testing.assert_close(near, loss(targets, **shared), rtol=1e-5, atol=1e-6)


def test_focal_has_a_finite_gradient_where_the_model_is_certain():
    certain = torch.tensor([[80.0, -80.0], [-80.0, 80.0]], requires_grad=True)
    made = make_loss("classification", {"loss": "focal", "focal_gamma": 0.5}, None, 2)
    made(certain, torch.tensor([0, 0])).backward()
    assert torch.isfinite(certain.grad).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_pytorchs(smoothing):
    expected = F.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)
    torch.testing.assert_close(loss(label_smoothing=smoothing), expected)


def test_label_smoothing_raises_the_loss_of_a_certain_model():
    made = make_loss("classification", {"label_smoothing": 0.1}, None, 5)
    assert made(F.one_hot(LABELS, 5) * 50.0, LABELS) > 1.0


def test_balanced_weights_are_scikit_learns():
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 3)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    np.testing.assert_allclose(balanced_weights(labels, 3).numpy(), expected, rtol=1e-6)
    made = make_loss("classification", {"class_weights": "balanced"}, labels, 3)
    weight = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(made(LOGITS[:, :3], LABELS % 3), F.cross_entropy(LOGITS[:, :3], LABELS % 3, weight))


def test_balanced_weights_reach_the_focal_loss():
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 3)
    made = make_loss("classification", {"class_weights": "balanced", "loss": "focal"}, labels, 3)
    logits, targets = LOGITS[:, :3], LABELS % 3
    p, w = logits.softmax(1)[torch.arange(40), targets], balanced_weights(labels, 3)[targets]
    torch.testing.assert_close(made(logits, targets), (w * -((1 - p) ** 2) * p.log()).sum() / w.sum())


def test_a_class_that_never_occurs_weighs_1():
    labels = torch.tensor([0, 0, 0, 2])
    weights = balanced_weights(labels, 4)
    expected = compute_class_weight("balanced", classes=np.array([0, 2]), y=labels.numpy())
    assert weights.tolist() == pytest.approx([expected[0], 1.0, expected[1], 1.0])


def test_a_model_may_have_more_logits_than_there_are_classes():
    made = make_loss("classification", {"class_weights": "balanced"}, torch.tensor([0, 1, 1]), 2)
    assert torch.isfinite(made(LOGITS, LABELS % 2))


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_targets_for_each_position_of_a_sequence(name):
    logits = LOGITS.reshape(8, 5, 5).transpose(1, 2)  # (sequences, classes, length)
    made = make_loss("language", {"loss": name, "class_weights": "balanced", "label_smoothing": 0.1}, LABELS, 5)
    torch.testing.assert_close(made(logits, LABELS.reshape(8, 5)), made(LOGITS, LABELS))


@pytest.mark.parametrize(
    ("knobs", "formula"),
    [
        ({}, lambda d: (d**2).mean()),
        ({"loss": "l1"}, lambda d: d.abs().mean()),
        ({"loss": "smooth_l1"}, lambda d: torch.where(d.abs() < 1, 0.5 * d**2, d.abs() - 0.5).mean()),
        (
            {"loss": "smooth_l1", "smooth_l1_beta": 0.3},
            lambda d: torch.where(d.abs() < 0.3, d**2 / 0.6, d.abs() - 0.15).mean(),
        ),
    ],
    ids=["l2", "l1", "smooth_l1", "smooth_l1 with beta"],
)
def test_losses_of_regression_are_their_formulas(knobs, formula):
    made = make_loss("regression", knobs, None, 5)
    torch.testing.assert_close(made(LOGITS, SOFT), formula(LOGITS - SOFT))


def test_one_prediction_without_its_dimension_fits_its_target():
    made = make_loss("regression", {}, None, 1)
    torch.testing.assert_close(made(LOGITS[:, 0], SOFT[:, :1]), F.mse_loss(LOGITS[:, 0], SOFT[:, 0]))


@pytest.mark.parametrize(
    ("task", "knobs", "message"),
    [
        ("classification", {"loss": "l1"}, "cross_entropy, focal"),
        ("regression", {"loss": "focal"}, "l2, l1, smooth_l1"),
        ("classification", {"loss": "fokal"}, "Did you mean 'focal'"),
        ("classification", {"label_smoothing": 0.6}, r"label_smoothing=0.6 is not in \[0, 0.5\]"),
        ("classification", {"label_smoothing": float("nan")}, "label_smoothing"),
        ("classification", {"loss": "focal", "focal_gamma": -1}, "focal_gamma=-1.0 is not at least 0"),
        ("classification", {"class_weights": "balance"}, "Did you mean 'balanced'"),
        ("classification", {"class_weights": "balanced"}, "needs the training targets"),
        ("regression", {"smooth_l1_beta": 0.0}, "smooth_l1_beta=0.0 is not above 0"),
    ],
)
def test_what_cannot_be_is_said(task, knobs, message):
    with pytest.raises(UserError, match=message):
        make_loss(task, knobs, None, 5)
