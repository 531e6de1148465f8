"""What makes a run the run that it is, and what may change under it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.trainer.conftest import write_pictures
from trainer.build import bucket_groups, build_validation, identity, load_examples, sample_shots
from trainer.checkpoints import check_identity
from trainer.config import RunConfig
from trainer.config_io import parse_config
from trainer.config_sections import Precision
from trainer.data.dataset import BatchOrder, Dataset, View
from trainer.failures import ExplainedError, ResumeRefusedError

Settings = Callable[..., RunConfig]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"adapter__rank": 3}, "adapter.rank"),
        ({"adapter__kind": "lora"}, "adapter.kind"),
        ({"train__seed": 1}, "train.seed"),
        ({"train__batch_size": 2}, "train.batch_size"),
        ({"optim__learning_rate": 0.02}, "optim.learning_rate"),
        ({"optim__kind": "lion"}, "optim.kind"),
        ({"adapter__ranks": {"*.attn2.*": 3}}, "adapter.ranks"),
        ({"optim__ema_decay": 0.9}, "optim.ema_decay"),
        ({"schedule__cycles": 2}, "schedule.cycles"),
        ({"model__clip_skip": 2}, "model.clip_skip"),
        ({"data__resolution_px": 48}, "data.resolution_px"),
        ({"data__prior": {"class_prompt": "a thing", "weight": 0.5}}, "data.prior"),
    ],
)
def test_a_changed_setting_is_refused_by_name(tiny_settings: Settings, change: dict[str, object], field: str) -> None:
    with pytest.raises(ResumeRefusedError, match=rf"another {field}"):
        check_identity(saved(identity_of(tiny_settings())), identity_of(tiny_settings(**change)))


def test_a_checkpoint_from_before_a_setting_existed_had_its_default(tiny_settings: Settings) -> None:
    before = saved(identity_of(tiny_settings()))
    assert before.pop("optim.weight_decay") == 0.01
    check_identity(before, identity_of(tiny_settings()))
    with pytest.raises(ResumeRefusedError, match=r"optim\.weight_decay: its checkpoint has 0.01, now it would be"):
        check_identity(before, identity_of(tiny_settings(optim__weight_decay=0.5)))


def test_a_checkpoint_with_the_former_name_of_min_snr_is_taken_up(tiny_settings: Settings) -> None:
    wanted = identity_of(tiny_settings(loss__weighting="min-snr", loss__min_snr_gamma=8))
    before = {name: value for name, value in saved(wanted).items() if not name.startswith("loss.")}
    check_identity(before | {"train.min_snr_gamma": 8.0}, wanted)
    with pytest.raises(ResumeRefusedError, match=r"another loss\.min_snr_gamma: its checkpoint has 5"):
        check_identity(before | {"train.min_snr_gamma": 5.0}, wanted)


def test_another_base_or_other_pictures_are_refused_by_name(tiny_settings: Settings) -> None:
    before = saved(identity_of(tiny_settings()))
    with pytest.raises(ResumeRefusedError, match=r"another model\.base: its checkpoint has weights weights-of-o"):
        check_identity(before, identity_of(tiny_settings(), fingerprint="weights-of-two"))
    config = tiny_settings()
    (config.data.folder / "04.png").unlink()
    with pytest.raises(ResumeRefusedError, match=r"another data\.folder"):
        check_identity(before, identity_of(config))


def test_further_sets_and_masks_may_lie_elsewhere_but_not_be_others(tiny_settings: Settings, tmp_path: Path) -> None:
    for name in ("more", "moved"):
        write_pictures(tmp_path / name / "pictures", [(40, 40), (48, 48)])
        (tmp_path / name / "masks").mkdir()
        for file in ("00.png", "01.png"):
            with Image.open(tmp_path / name / "pictures" / file) as picture:
                Image.new("L", picture.size, 255).save(tmp_path / name / "masks" / file)

    def config(name: str, **changes: object) -> RunConfig:
        folder, masks = (str(tmp_path / name / part) for part in ("pictures", "masks"))
        values = tiny_settings().model_dump(mode="json", exclude_none=True)
        more = [{"folder": folder, "caption_source": "name", "trigger": "x", "mask": {"source": masks}, **changes}]
        return parse_config({**values, "data": {**values["data"], "more": more}})

    before = saved(identity_of(config("more")))
    check_identity(before, identity_of(config("moved")))
    with pytest.raises(ResumeRefusedError, match=r"another data\.more\.1\.repeats"):
        check_identity(before, identity_of(config("moved", repeats=2)))
    Image.new("L", (40, 40), 254).save(tmp_path / "moved" / "masks" / "00.png")
    with pytest.raises(ResumeRefusedError, match=r"another data\.folder"):
        check_identity(before, identity_of(config("moved")))
    Image.new("L", (40, 41), 254).save(tmp_path / "moved" / "masks" / "00.png")
    with pytest.raises(ExplainedError, match=r"cannot be trained: mask\.source: the mask 00\.png is 40x41"):
        identity_of(config("moved"))


def test_another_precision_is_called_so_also_where_auto_came_to_another_on_another_device(
    tiny_settings: Settings,
) -> None:
    before = saved(identity_of(tiny_settings()))  # auto, on a processor
    with pytest.raises(ResumeRefusedError) as refused:  # the fingerprint is that of rounded weights then
        check_identity(before, identity_of(tiny_settings(), "rounded-weights", "bf16"))
    assert "another train.precision: its checkpoint has fp32, now it would be bf16" in refused.value.sentence
    assert "Set train.precision back to fp32, or clone the run" in refused.value.fix
    check_identity(before, identity_of(tiny_settings(train__precision="fp32")))  # what auto came to


def test_names_places_samples_and_length_may_change(tiny_settings: Settings) -> None:
    changed = tiny_settings(
        name="other",
        sample__prompts=["a fox"],
        save__keep_last=1,
        train__steps=12,
        train__checkpointing=True,
        train__validation_every_steps=3,
    )
    check_identity(saved(identity_of(tiny_settings())), identity_of(changed))


def test_validation_is_on_the_same_pictures_and_noise_whatever_they_are_called(tiny_settings: Settings) -> None:
    config = tiny_settings(train__validation_pictures=2)
    before = build_validation(config, dataset_of(config), 1000)
    for file in sorted(config.data.folder.glob("*.png")):
        file.rename(file.with_stem(f"{99 - int(file.stem)}"))
    after = build_validation(config, dataset_of(config), 1000)
    assert len(before.batches) == len(after.batches) == 2
    for (_, one), (_, other) in zip(before.batches, after.batches, strict=True):
        assert torch.equal(one.noise, other.noise)
        assert one.timesteps.tolist() == other.timesteps.tolist() == [125, 375, 625, 875]


def test_samples_are_of_the_prompts_else_of_the_prompt_of_the_set_each_with_its_own_seed(
    tiny_settings: Settings,
) -> None:
    told = sample_shots(tiny_settings(sample__prompts=["a", "b"], sample__seed=5, sample__size_px=(64, 32)), "caption")
    assert [(shot.prompt, shot.seed, shot.width, shot.height) for shot in told] == [("a", 5, 64, 32), ("b", 6, 64, 32)]
    assert sample_shots(tiny_settings(), "caption")[0].prompt == "a sks thing"
    assert sample_shots(tiny_settings(data__instance_prompt=""), "caption")[0].prompt == "caption"


def test_a_folder_without_pictures_says_what_was_wrong_with_them(tiny_settings: Settings) -> None:
    config = tiny_settings()
    for file in config.data.folder.glob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(ExplainedError, match=r"no picture that can be used .* 00\.png: empty file"):
        load_examples(config.data)


def identity_of(
    config: RunConfig, fingerprint: str = "weights-of-one", precision: Precision = "fp32"
) -> dict[str, object]:
    return identity(config, fingerprint, (dataset_of(config),), precision)


def saved(values: dict[str, object]) -> dict[str, object]:
    return json.loads(json.dumps(values))


def dataset_of(config: RunConfig) -> Dataset:
    examples = load_examples(config.data)
    order = BatchOrder(bucket_groups(examples), 1, 0, "instance")
    sizes = [(example.bucket.height // 8, example.bucket.width // 8) for example in examples]
    views = tuple((View(torch.zeros(4, *size), torch.ones(1, *size)),) for size in sizes)
    return Dataset("instance", examples, views, order)
