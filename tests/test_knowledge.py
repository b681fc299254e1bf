"""The knowledge base: complete, consistent, in two languages; the spaces, the page and the checklist made from it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import drive
from test_playbook import SPACE, _noise_study, landscape

import luthier as lt
from luthier.core.errors import SpaceError
from luthier.knowledge import (
    HEADINGS,
    SETTINGS,
    TIERS,
    default_config,
    family,
    find,
    markdown,
    prior_center,
    rate_for_batch,
    recommended,
    role,
    role_of,
    roles,
    rules,
    setting_of,
    smallest,
    sources,
)
from luthier.knowledge.recommend import OPTIMIZERS
from luthier.playbook.checklist import checklist, render, width, wrap

# Every line of the seed document, in its order: what it says, the role that knows it, its tier.
SEED = [
    ("学习率 (Learning Rate)", "learning_rate", 1),
    ("batch size", "batch_size", 1),
    ("优化器 (Optimizer)", "optimizer", 1),
    ("SGD+Momentum 的动量", "momentum", 1),
    ("学习率调度器 (Scheduler)", "schedule", 2),
    ("Warmup", "warmup", 2),
    ("训练 epoch 数量", "epochs", 2),
    ("Early Stopping", "early_stopping", 2),
    ("网络深度", "depth", 3),
    ("网络宽度", "width", 3),
    ("隐藏层维度", "hidden_size", 3),
    ("注意力头数", "heads", 3),
    ("卷积核大小", "kernel_size", 3),
    ("Weight Decay (L2 正则化系数)", "weight_decay", 4),
    ("Dropout rate", "dropout_rate", 4),
    ("数据增强强度", "augmentation", 4),
    ("图像的旋转", "rotation", 4),
    ("图像的翻转", "flip", 4),
    ("点云的扰动", "jitter", 4),
    ("预训练权重", "pretrained", 5),
    ("微调策略：冻结前几层 or 全部解冻", "finetune", 5),
    ("混合精度训练 (FP16)", "fp16", 5),
    ("损失函数", "loss", 5),
    ("Focal Loss", "focal_gamma", 5),
    ("类别不平衡", "class_weights", 5),
    ("SmoothL1", "smooth_l1_beta", 5),
]

KNOBS = """learning_rate batch_size optimizer momentum beta1 beta2 eps nesterov grad_clip accumulate schedule warmup
    decay_fraction plateau_patience patience epochs depth width heads kernel_size weight_decay dropout drop_path
    label_smoothing augmentation mixup ema finetune layer_decay head_epochs precision loss focal_gamma class_weights
    smooth_l1_beta"""

ALIASES = {
    "learning_rate": "lr eta base_lr lr0 max_lr peak_lr init_lr alpha step_size optimizer.lr lr_backbone lr_head",
    "optimizer": "opt optim optimizer_name algorithm",
    "batch_size": "bs batch train_batch_size per_device_train_batch_size per_gpu_batch_size samples_per_gpu "
    "micro_batch_size trainBatchSize",
    "momentum": "mom sgd.momentum",
    "beta1": "betas[0] b1 one_minus_beta1 optimizer.betas[0]",
    "beta2": "betas[1] b2 rho RMSProp.alpha",
    "eps": "epsilon adam_eps opt_eps",
    "grad_clip": "clip clip_grad clip_grad_norm max_grad_norm gradient_clip_val",
    "schedule": "sched scheduler lr_scheduler lr_schedule lr_policy",
    "warmup": "warmup_steps warmup_epochs warmup_ratio warmup_factor warmup_proportion warmup_pct num_warmup_steps",
    "min_lr": "eta_min lr_min final_div_factor end_factor",
    "decay_fraction": "decay cooldown",
    "epochs": "n_epochs num_epochs max_epochs num_train_epochs max_steps total_steps train_steps iterations max_iter",
    "onecycle_rise": "pct_start",
    "onecycle_div": "div_factor div",
    "patience": "early_stopping early_stop_patience es_patience min_delta",
    "depth": "n_layers num_layers layers n_blocks num_hidden_layers e_layers model.n-layers",
    "width": "hidden_dim hidden_size d_model dim n_embd channels base_channels units d_hidden hidden nhid ffn_dim d_ff "
    "mlp_ratio model/hidden-size",
    "heads": "n_heads num_heads nhead num_attention_heads",
    "kernel_size": "ks k patch_size",
    "activation": "act",
    "norm": "norm_layer",
    "weight_decay": "wd l2 l2_reg weight_decay_rate reg lambda train/weightDecay",
    "dropout": "dropout_rate p_drop drop p drop_rate attn_dropout hidden_dropout_prob resid_pdrop classifier_dropout",
    "drop_path": "stochastic_depth drop_path_rate drop_connect",
    "label_smoothing": "smoothing ls eps_ls",
    "augmentation": "aug aa randaug augment aug_magnitude",
    "rotation": "rot_deg",
    "flip": "hflip",
    "crop": "scale_low scale_high",
    "jitter": "jitter_sigma",
    "mixup": "mixup_alpha",
    "cutmix": "cutmix_alpha",
    "random_erasing": "reprob",
    "ema": "ema_decay model_ema_decay polyak swa",
    "finetune": "pretrained freeze freeze_layers unfreeze_at finetune_mode",
    "head_epochs": "freeze_epochs",
    "layer_decay": "llrd lr_decay_rate layerwise_lr_decay",
    "precision": "amp fp16 bf16 mixed_precision",
    "loss": "criterion loss_fn",
    "focal_alpha": "focal.alpha loss.alpha",
    "class_weights": "class_weight pos_weight",
    "seed": "random_seed manual_seed",
}

CHINESE = re.compile(r"[\u4e00-\u9fff]")
EVERY = list(roles().values())


@pytest.mark.parametrize(("line", "name", "tier"), SEED, ids=[s[1] for s in SEED])
def test_every_line_of_the_seed_is_known(line, name, tier):
    assert role(name) is not None, line
    assert role(name).tier == tier


def test_the_seeds_own_numbers_are_kept_and_corrected():
    r = roles()
    assert r["learning_rate"].seed_range == (1e-6, 1e-1)
    assert r["batch_size"].seed_range == (16, 512)
    assert r["weight_decay"].seed_range == (1e-5, 1e-3)
    assert r["dropout"].seed_range == (0.1, 0.5)
    decay = r["weight_decay"]
    for optimizer, low, high in (("adamw", 5e-3, 1.0), ("sgd", 1e-6, 1e-2), ("adam", 1e-6, 1e-2)):
        assert (decay.number("low", optimizer), decay.number("high", optimizer)) == (low, high)
    assert "1e-5" in decay.note
    assert "1e-5" in decay.note_zh


def test_every_knob_of_the_recipe_is_known_by_its_own_name():
    assert [n for n in KNOBS.split() if n not in roles()] == []
    pytest.importorskip("torch")
    knobs = pytest.importorskip("luthier.recipe.knobs")
    assert [n for n in knobs.KNOBS if n not in roles()] == []


@pytest.mark.parametrize("name", ALIASES)
def test_names_met_in_the_wild(name):
    assert {alias: role(alias).name for alias in ALIASES[name].split()} == dict.fromkeys(ALIASES[name].split(), name)


def test_no_name_belongs_to_two_roles():
    names = [n for r in EVERY for n in (r.name, *r.aliases, *r.other_units)]
    assert sorted(n for n in set(names) if names.count(n) > 1) == []
    assert all(re.fullmatch(r"[a-z0-9_]+", n) for n in names)
    assert role("flux_capacitance") is None


def test_every_entry_is_whole():
    for r in EVERY:
        assert r.title, r.name
        assert CHINESE.search(r.advice_zh), r.name
        assert CHINESE.search(r.title_zh) or r.title_zh.isascii() or "（" in r.title_zh, r.name
        for english in (r.title, r.advice, r.skip, r.note, r.shape):
            assert not CHINESE.search(english), r.name
        assert r.advice.endswith(".")
        assert r.advice_zh.endswith("。")
        assert r.advice.count(". ") == 0, f"{r.name}: one sentence"
        assert bool(r.note) == bool(r.note_zh), r.name
        assert r.skip, r.name
        assert r.sources, r.name
        assert set(r.sources) <= set(sources()), r.name
        assert set(r.coupled) <= set(roles()), r.name
        assert r.name not in r.coupled
    for rule in rules():
        assert CHINESE.search(rule.zh)
        assert not CHINESE.search(rule.en)
        assert set(rule.sources) <= set(sources())
    cited = {k for r in EVERY for k in r.sources} | {k for r in rules() for k in r.sources}
    assert set(sources()) == cited
    assert all(s.url.startswith("https://") for s in sources().values())


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("optimizer", [None, *OPTIMIZERS])
def test_defaults_and_priors_lie_inside_the_ranges(optimizer, setting):
    for r in EVERY:
        low, high = r.number("low", optimizer, setting), r.number("high", optimizer, setting)
        assert (low is None) == (high is None), r.name
        if low is None:
            continue
        assert low < high, r.name
        assert not r.log or low > 0, r.name
        for key in ("default", "center"):
            number = r.number(key, optimizer, setting)
            assert number is None or low <= number <= high, (r.name, key)
        if r.center is not None:
            assert r.number("spread", optimizer, setting) > 0, r.name


def test_numbers_depend_on_optimizer_and_setting():
    rate = roles()["learning_rate"]
    assert rate.number("center", "sgd") == 0.1
    assert rate.number("center", "torch.optim.SGD") == 0.1
    assert rate.number("center", "AdamW") == rate.number("default", "adamw") == 1e-3
    assert rate.number("center", "adamw", "finetune") == 2.5e-5
    assert rate.number("center", "sgd", "finetune") == 1e-2
    assert rate.number("center", "lion") == 1e-3  # what is not known by name has the plain numbers
    assert [family(o) for o in ("NAdam", "RMSprop", "sgd_momentum", None)] == ["nadamw", "rmsprop", "sgd", None]


def test_numbers_of_other_units_are_left_alone():
    space = lt.Space(warmup_steps=lt.Int(0, 1000), mlp_ratio=lt.Float(1.0, 9.0), warmup=lt.Float(0.0, 0.5))
    assert role_of("warmup_steps", space["warmup_steps"]).name == "warmup"
    assert default_config(space) == {"warmup_steps": 500, "mlp_ratio": 5.0, "warmup": 0.05}
    assert prior_center(space, "warmup_steps") is None


def test_of_several_names_the_plainest_is_found():
    space = lt.Space(alpha=lt.Float(0, 1), lr_head=lt.Float(0, 1), lr=lt.Float(1e-5, 1, log=True))
    assert find(space, "learning_rate") == "lr"
    assert find(space, "dropout") is None


def test_choices_have_defaults_too():
    space = lt.Space(
        batch_size=lt.Choice(16, 48, 256),
        optimizer=lt.Choice("sgd", "adamw"),
        width=lt.Choice(64, 32),
        amp=lt.Choice(True, False),
    )
    assert default_config(space) == {"batch_size": 48, "optimizer": "adamw", "width": 64, "amp": False}
    assert smallest(space, default_config(space))["width"] == 32


def test_rates_follow_batches():
    assert rate_for_batch(0.1, 64, 256, "sgd") == pytest.approx(0.4)
    assert rate_for_batch(1e-3, 64, 256, "adamw") == pytest.approx(2e-3)


# -- spaces --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", ["classification", "regression", "language"])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("model", [None, "mlp", "cnn", "pointnet", "transformer"])
def test_recommended_spaces_are_valid_and_can_be_sampled(task, setting, model):
    rng = np.random.default_rng(0)
    for tiers in ((1, 2), (1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4, 5), (4,)):
        space = recommended(task, tiers, setting, OPTIMIZERS, model)
        assert lt.Space.from_yaml(space.to_yaml()) == space
        assert all(role(n).name == n for n in space)
        assert setting_of(space) == setting
        config = default_config(space)
        assert space.complete(config) == config
        for _ in range(20):
            drawn = space.sample(rng)
            assert ("momentum" in drawn) == (1 in tiers and drawn["optimizer"] in ("sgd", "rmsprop"))
            assert ("warmup" in drawn) == (2 in tiers and drawn["schedule"] != "onecycle")
            assert ("focal_gamma" in drawn) == (drawn.get("loss") == "focal")
            assert ("smooth_l1_beta" in drawn) == (drawn.get("loss") == "smooth_l1")
            assert drawn.get("width", 0) % drawn.get("heads", 1) == 0


def test_a_recommended_space_has_the_ranges_of_its_optimizers():
    space = recommended(tiers=(1, 4), optimizers=("adamw", "sgd"))
    assert (space["learning_rate"].low, space["learning_rate"].high) == (1e-5, 1.0)
    assert (space["weight_decay"].low, space["weight_decay"].high) == (1e-6, 1.0)
    assert default_config(space)["learning_rate"] == 1e-3
    assert default_config(space, {"optimizer": "sgd"})["weight_decay"] == 5e-4
    alone = recommended(optimizers="adamw")
    assert (alone["optimizer"], alone["learning_rate"].high) == (lt.Constant("adamw"), 1e-2)


def test_fine_tuning_begins_at_its_own_rates():
    space = recommended(setting="finetune", optimizers=("adamw", "sgd"))
    assert default_config(space)["learning_rate"] == 3e-5
    assert prior_center(space, "learning_rate", "adamw") == 2.5e-5
    assert prior_center(space, "learning_rate", "sgd") == 1e-2
    assert "depth" not in recommended(tiers=(1, 3), setting="finetune")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"task": "clasification"}, "Unknown task .* Did you mean 'classification'"),
        ({"optimizers": ("adamv",)}, "Unknown optimizer 'adamv'. Did you mean 'adam"),
        ({"optimizers": ()}, "at least one"),
        ({"tiers": (0,)}, "Unknown tier 0"),
        ({"setting": "pretrained"}, "Unknown setting"),
        ({"model": "rnn"}, "Unknown model"),
        ({"tiers": (3,), "setting": "finetune", "task": "x"}, "Unknown task"),
    ],
)
def test_mistakes_are_named(asked, message):
    with pytest.raises(SpaceError, match=message):
        recommended(**asked)


# -- page and checklist --------------------------------------------------------------------------------------------
def test_the_page_is_up_to_date():
    page = Path(__file__).parents[1] / "docs" / "knowledge.md"
    assert page.read_text(encoding="utf-8") == markdown()


def test_every_link_of_the_page_leads_somewhere():
    text = markdown()
    places = re.findall(r'<a id="([^"]+)">', text)
    assert len(places) == len(set(places))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(places)


def test_the_bare_checklist_has_the_seeds_items_in_its_order():
    rows = checklist()
    assert [r.tier for r in rows] == sorted(r.tier for r in rows)
    listed = [r.role for r in rows]
    in_seed = [role(name).name for _, name, _ in SEED if role(name).listed]
    assert listed == list(dict.fromkeys(in_seed))
    assert all(r.state is None and r.seed_range and r.default and r.advice for r in rows)
    rate = rows[0]
    assert (rate.title, rate.seed_range) == ("Learning rate", "1e-6 to 0.1")
    assert rate.default == "1e-3 (adamw), 0.05 (sgd)"


@pytest.fixture(scope="module")
def study():
    return drive(SPACE, "playbook", landscape, budget="16 trials", max_epochs=12)


def test_a_playbook_study_settles_its_checklist(study):
    rows = {r.name or r.role: r for r in checklist(study.history)}
    assert set(SPACE) <= set(rows)
    rate = rows["learning_rate"]
    assert (rate.state, rate.value) == ("settled", study.best_config["learning_rate"])
    assert "stage" in rate.why
    assert rows["optimizer"].value == "adamw"
    assert (rows["momentum"].state, rows["momentum"].why) == ("skipped", "only with optimizer = sgd")
    assert rows["depth"].state == "absent"
    assert (rows["epochs"].state, rows["epochs"].value) == ("settled", 12)
    assert (rows["mystery"].tier, rows["mystery"].role, rows["mystery"].value) == (6, None, 0.5)


def test_a_study_on_its_way_has_open_lines():
    study = lt.AskTell(SPACE, minimize="val_loss", max_epochs=12, budget="16 trials")
    assert {r.state for r in checklist(study.history)} == {"open", "absent", "settled"}  # settled: the length
    while (job := study.ask()) and study.history.stage("schedule") is None:
        for epoch in range(job.start + 1, job.until + 1):
            study.tell(job, epoch, val_loss=landscape(job.config, epoch))
    rows = {r.name or r.role: r for r in checklist(study.history)}
    assert rows["learning_rate"].state == "settled"
    assert rows["dropout"].state == "open"
    assert rows["momentum"].state == "skipped"


def test_where_the_default_is_kept_the_checklist_says_so():
    study = _noise_study()
    rows = {r.name: r for r in checklist(study.history) if r.name}
    assert {n: r.value for n, r in rows.items() if r.state == "settled"} == dict(study.best_config)
    assert "the confirmation kept the strong default" in rows["learning_rate"].why
    assert not any("confirmed on" in r.why for r in rows.values())


def test_a_search_without_stages_settles_at_its_best_trial():
    study = drive(SPACE, "random", landscape, budget="5 trials", max_epochs=4)
    rows = {r.name: r for r in checklist(study.history) if r.name}
    assert rows["learning_rate"].value == study.best_config["learning_rate"]
    assert rows["learning_rate"].why == "the best of 5 trials"


def test_a_constant_is_settled_from_the_start():
    space = lt.Space(lr=lt.Float(1e-5, 1.0, log=True), optimizer=lt.Constant("sgd"), bs=lt.Constant(32))
    study = lt.AskTell(space, minimize="val_loss", max_epochs=4, budget="5 trials")
    rows = {r.name: r for r in checklist(study.history)}
    assert (rows["bs"].state, rows["bs"].value) == ("settled", 32)
    assert rows["lr"].default == "0.05"


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("studied", [False, True])
def test_the_checklist_fits_a_terminal(study, lang, studied):
    history = study.history if studied else None
    text = render(checklist(history, lang), lang)
    assert max(width(line) for line in text.splitlines()) <= 100
    headings = [line for line in text.splitlines() if line in HEADINGS[lang].values()]
    assert headings == [HEADINGS[lang][t] for t in (*TIERS, *([6] if studied else []))]
    titles = {"en": "Dropout rate", "zh": "网络深度（层数）"}
    assert titles[lang] in text
    if lang == "zh":
        assert "一级：核心参数" in text
        assert all(CHINESE.search(r.advice) for r in checklist(history, lang))
        assert not studied or all(CHINESE.search(r.why) for r in checklist(history, lang))
    if studied:
        marks = {"en": "settled = adamw", "zh": "已确定 = adamw"}
        assert marks[lang] in text


@pytest.mark.parametrize(("lang", "ranges"), [("en", r"1e-6 to 0\.1|16 to 512"), ("zh", r"1e-6 ~ 0\.1|16 ~ 512")])
def test_columns_line_up_in_both_scripts(lang, ranges):
    cells = [line for line in render(checklist(lang=lang), lang).splitlines() if line.startswith("[")]
    begins = [width(line[: found.start()]) for line in cells if (found := re.search(ranges, line))]
    assert len(begins) == 2
    assert len(set(begins)) == 1


def test_lines_break_between_chinese_characters_and_never_before_their_punctuation():
    text = "学习率最先调，太大会发散（甚至 NaN）；a_name_that_is_much_longer_than_the_line 也要断开。"
    lines = wrap(text, 20)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(width(line) <= 20 for line in lines)
    assert not any(line[0] in "，。；：）" for line in lines)
