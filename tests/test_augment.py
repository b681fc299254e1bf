import math

import pytest
import torch
from torch.nn import functional as F

from luthier.core.errors import UserError
from luthier.recipe.augment import KINDS, augment, flip, mixup, points, rotate_z


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


IMAGES = torch.rand(64, 3, 16, 12, generator=generator(1))
CLOUDS = torch.randn(64, 100, 5, generator=generator(2)) / 3
BATCHES = {"image": IMAGES, "image_noflip": IMAGES, "points": CLOUDS}
each_kind = pytest.mark.parametrize("kind", KINDS)


def test_there_is_a_batch_for_each_kind():
    assert set(BATCHES) == set(KINDS)


@each_kind
def test_strength_0_is_the_batch_itself(kind):
    before = BATCHES[kind].clone()
    assert augment(kind, BATCHES[kind], 0.0, generator()) is BATCHES[kind]
    augment(kind, BATCHES[kind], 1.0, generator())
    assert torch.equal(BATCHES[kind], before)


@each_kind
def test_the_generator_decides_alone(kind):
    x = BATCHES[kind]
    state = torch.get_rng_state()
    first = augment(kind, x, 0.7, generator(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(augment(kind, x, 0.7, generator(3)), first)
    assert not torch.equal(augment(kind, x, 0.7, generator(4)), first)
    assert first.shape == x.shape
    assert torch.isfinite(first).all()


@each_kind
def test_each_sample_is_altered_in_its_own_way(kind):
    same = BATCHES[kind][:1].expand_as(BATCHES[kind])
    out = augment(kind, same, 1.0, generator())
    assert len({tuple(sample.flatten().tolist()) for sample in out}) > 0.9 * len(out)


@each_kind
def test_a_stronger_dial_alters_more(kind):
    x = BATCHES[kind]
    change = [float((augment(kind, x, s, generator()) - x).abs().mean()) for s in (0.02, 0.2, 1.0)]
    assert change == sorted(change)
    assert change[0] < 0.4 * change[2]


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_images_stay_within_their_own_range_of_values_and_0(strength):
    x = IMAGES * torch.rand(64, 1, 1, 1, generator=generator(6)) + 0.1
    out = augment("image", x, strength, generator())
    assert (out.amax((1, 2, 3)) <= x.amax((1, 2, 3)) + 1e-5).all()
    assert (out >= 0.0).all()


def test_images_move_by_an_eighth_of_a_side_at_most_and_in_whole_pixels_unless_turned():
    x = torch.zeros(400, 1, 33, 17)
    x[:, :, 16, 8] = 1.0  # the centre: where it is turned about
    for strength in (0.1, 0.5, 1.0):
        out = augment("image_noflip", x, strength, generator())
        peak = out.flatten(1).argmax(1)
        whole = (out > 0.99).any((1, 2, 3))  # neither turned nor erased nor of less contrast
        down, right = peak[whole] // 17 - 16, peak[whole] % 17 - 8
        assert whole.float().mean() > 0.2
        assert down.abs().max() <= math.ceil(33 / 8 * strength)
        assert right.abs().max() <= math.ceil(17 / 8 * strength)
        assert len(down.unique()) > 2


def test_images_turn_by_30_degrees_at_most_in_pixels_not_in_parts_of_a_side():
    x = torch.zeros(400, 1, 61, 31)
    x[:, :, 20, 15], x[:, :, 40, 15] = 1.0, 2.0  # 20 pixels apart, upright
    out = augment("image_noflip", x, 1.0, generator()).squeeze(1)
    out = out - out.flatten(1).median(1).values[:, None, None]
    centres = []
    for half in (out[:, :30].clamp(min=0), out[:, 30:].clamp(min=0)):
        mass = half.sum((1, 2))
        rows = (half.sum(2) * torch.arange(half.shape[1])).sum(1) / mass
        columns = (half.sum(1) * torch.arange(31.0)).sum(1) / mass
        centres.append(torch.stack([rows, columns], 1))
    apart = centres[1] - centres[0] + torch.tensor([30.0, 0.0])
    seen = torch.isfinite(apart).all(1) & ((apart.norm(dim=1) - 20).abs() < 1.0)  # neither erased nor recoloured
    angle = torch.atan2(apart[seen, 1], apart[seen, 0]).rad2deg()
    assert seen.float().mean() > 0.5
    assert angle.abs().max() < 31.0
    assert angle.max() > 26.0
    assert angle.min() < -26.0
    assert 0.3 < (angle.abs() < 0.5).float().mean() < 0.7  # about a half are not turned


def test_a_flip_is_exact_and_is_all_that_sets_the_two_kinds_of_images_apart():
    assert torch.equal(flip(IMAGES[:2], torch.tensor([True, False])), torch.stack([IMAGES[0].flip(2), IMAGES[1]]))
    for strength in (0.2, 1.0):
        plain = augment("image_noflip", IMAGES, strength, generator())
        out = augment("image", IMAGES, strength, generator())
        flipped = torch.tensor([torch.equal(a, b.flip(2)) for a, b in zip(out, plain)])
        assert torch.equal(out, flip(plain, flipped))
        assert 0 < flipped.float().mean() < 0.75 * strength + 0.05


def test_images_are_erased_by_a_third_at_most():
    # Vertical stripes survive each operation but an erasure, which leaves a constant.
    x = torch.ones(300, 1, 30, 30) + torch.arange(30) % 2
    out = augment("image_noflip", x, 1.0, generator())[:, 0, 5:25, 5:25]
    still = (out[:, :, 1:] - out[:, :, :-1]).abs() < 1e-6
    share = still.flatten(1).float().mean(1)
    assert 0.2 < (share > 0.02).float().mean() < 0.8
    assert share.max() * 19 * 20 <= 900 / 3 + 30


def test_bytes_and_images_without_a_channel_are_taken():
    x = (IMAGES[:, 0] * 255).to(torch.uint8)
    out = augment("image", x, 0.5, generator())
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    assert out.max() > 200


def test_a_rotation_about_z_keeps_heights_and_distances_from_the_axis():
    xyz = CLOUDS[:, :, :3]
    angle = torch.linspace(-math.pi, math.pi, 64)
    out = rotate_z(xyz, angle)
    assert torch.equal(out[:, :, 2], xyz[:, :, 2])
    torch.testing.assert_close(out[:, :, :2].norm(dim=2), xyz[:, :, :2].norm(dim=2))
    quarter = rotate_z(torch.tensor([[[1.0, 0.0, 7.0]]]), torch.tensor([math.pi / 2]))
    torch.testing.assert_close(quarter, torch.tensor([[[0.0, 1.0, 7.0]]]))


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_points_stay_within_the_bounds_of_scale_shift_and_jitter(strength):
    out = points(CLOUDS, strength, generator())
    kept = (out[:, :, 3:] == CLOUDS[:, :, 3:]).all(2)  # all but those that were dropped
    assert kept.any(1).all()
    scale, rest = 1.5**strength, (0.2 + 0.05) * strength + 1e-5
    z, was = out[:, :, 2][kept], CLOUDS[:, :, 2][kept]
    assert ((z - was).abs() <= was.abs() * (scale - 1) + rest).all()
    radius, before = out[:, :, :2].norm(dim=2)[kept], CLOUDS[:, :, :2].norm(dim=2)[kept]
    assert (radius <= before * scale + rest * math.sqrt(2)).all()
    assert (radius >= before / scale - rest * math.sqrt(2)).all()


def test_the_jitter_of_points_is_normal_and_cut(monkeypatch):
    def jitter():
        out = points(torch.zeros(1, 20000, 3), 1.0, generator(5))
        kept = out[(out != out[:, :1]).any(2)]
        return kept - (kept.amax(0) + kept.amin(0)) / 2, kept.std(0)

    assert jitter()[1].tolist() == pytest.approx([0.01] * 3, rel=0.05)
    monkeypatch.setattr("luthier.recipe.augment.JITTER", 1.0)
    assert jitter()[0].abs().amax(0).tolist() == pytest.approx([0.05] * 3)


def test_a_dropped_point_is_the_clouds_first_one_with_its_features():
    out = points(CLOUDS, 1.0, generator())
    dropped = (out == out[:, :1]).all(2)
    assert torch.equal(out[dropped], out[:, :1].expand_as(out)[dropped])
    share = dropped.float().mean(1)
    assert 0.3 < share.mean() < 0.6  # half of seven eighths
    assert share.max() < 1.0
    kept = (out[:, :, 3:] == CLOUDS[:, :, 3:]).all(2)
    assert (kept | dropped).all()


@pytest.mark.parametrize(
    ("kind", "x", "strength", "message"),
    [
        ("images", IMAGES, 0.5, "Did you mean 'image"),
        ("image", IMAGES, 1.5, r"1.5 is not in \[0, 1\]"),
        ("image", IMAGES, float("nan"), r"nan is not in \[0, 1\]"),
        ("image", torch.zeros(4, 9), 0.5, "3 or 4 dimensions"),
        ("points", torch.zeros(4, 9, 2), 0.5, "3 or more"),
    ],
)
def test_what_cannot_be_is_said(kind, x, strength, message):
    with pytest.raises(UserError, match=message):
        augment(kind, x, strength, generator())


LABELS = torch.randint(7, (64,), generator=generator(9))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_is_convex_and_keeps_the_mass_of_the_targets(alpha):
    x, y = mixup(IMAGES, LABELS, alpha, generator(11), 7)
    assert y.shape == (64, 7)
    torch.testing.assert_close(y.sum(1), torch.ones(64))
    assert (y >= 0).all()
    assert not torch.equal(x, IMAGES)
    low, high = IMAGES.amin(0), IMAGES.amax(0)
    assert ((x >= low - 1e-6) & (x <= high + 1e-6)).all()
    torch.testing.assert_close(x.mean(0), IMAGES.mean(0))
    torch.testing.assert_close(y.mean(0), F.one_hot(LABELS, 7).float().mean(0))


def test_mixup_weighs_inputs_as_it_weighs_targets():
    labels = torch.arange(7)
    x, y = mixup(F.one_hot(labels, 7).float(), labels, 0.5, generator(), 7)
    torch.testing.assert_close(x, y)


def test_mixups_weights_come_from_its_beta():
    labels = torch.tensor([0, 1])
    draws = torch.tensor([float(mixup(IMAGES[:2], labels, 0.5, generator(s), 2)[1][0, 0]) for s in range(400)])
    mixed = draws[draws != 1.0]  # half of the time a sample meets itself
    assert mixed.mean() == pytest.approx(0.5, abs=0.1)
    assert mixed.var() == pytest.approx(0.125, abs=0.03)  # 1 / (4 (2 alpha + 1))


def test_mixup_with_alpha_0_leaves_the_inputs_and_says_targets_as_probabilities():
    x, y = mixup(IMAGES, LABELS, 0.0, generator(), 7)
    assert x is IMAGES
    assert torch.equal(y, F.one_hot(LABELS, 7).float())


def test_mixup_mixes_numbers_to_predict():
    numbers = IMAGES.mean((2, 3))
    x, y = mixup(IMAGES, numbers, 1.0, generator(), 3)
    torch.testing.assert_close(x.mean((2, 3)), y)


@pytest.mark.parametrize(
    ("y", "alpha", "message"),
    [(LABELS, -0.1, "mixup=-0.1"), (LABELS.reshape(8, 8), 0.2, r"cannot mix targets of shape \(8, 8\)")],
)
def test_what_cannot_be_mixed_is_said(y, alpha, message):
    with pytest.raises(UserError, match=message):
        mixup(IMAGES, y, alpha, generator(), 7)
