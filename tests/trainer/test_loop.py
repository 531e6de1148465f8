"""The loop's arithmetic, and what it does with numbers that are none."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import FAMILY_NAMES
from trainer.build import build_training
from trainer.checkpoints import CheckpointStore
from trainer.components import Components, load_components
from trainer.compute import Compute
from trainer.config import RunConfig
from trainer.config_learning import NoiseConfig
from trainer.diffusion import add_noise, prediction_target
from trainer.events import Failed, Sampled, SkippedStep, Warned, read_events, read_metrics
from trainer.failures import DivergedError
from trainer.home import Home
from trainer.loop import MAX_SKIPPED_IN_A_ROW, accumulate_gradients, take_step
from trainer.noise import draw
from trainer.optim import named_parameters
from trainer.run_dir import RunDir
from trainer.session import run_training
from trainer.text import encode, tokenize
from trainer.training import Every, Training
from trainer.twins import create_runs, pair_id, twins_of

Settings = Callable[..., RunConfig]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_step_moves_every_adapted_part_and_nothing_else(family: str, tmp_path: Path, tiny_settings: Settings) -> None:
    components, training = built(
        tmp_path,
        tiny_settings(family, adapter__text_encoder=True, train__checkpointing=True, loss__weighting="min-snr"),
    )
    own = {id(p) for p in named_parameters(training.adapters).values()}
    frozen = {
        f"{part}.{name}": p.detach().clone()
        for part, model in components.models.items()
        for name, p in model.named_parameters()
        if id(p) not in own
    }
    before = {name: p.detach().clone() for name, p in named_parameters(training.adapters).items()}
    for step in (1, 2):  # at first up is zero, so that down gets no gradient
        assert take_step(training, step).reason == ""
    moved = {name for name, p in named_parameters(training.adapters).items() if not torch.equal(p, before[name])}
    assert {name.partition(".")[0] for name in moved} == components.models.keys()
    assert len(moved) > 0.9 * len(before)
    for part, model in components.models.items():
        for name, p in model.named_parameters():
            assert id(p) in own or torch.equal(p, frozen[f"{part}.{name}"])


def test_the_loss_is_that_of_the_equations_and_class_pictures_count_by_their_weight(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    prior = {"class_prompt": "a thing", "count": 2, "weight": 0.25}
    components, training = built(tmp_path, tiny_settings("sd2", train__batch_size=2, data__prior=prior))
    loss, bands, pictures = accumulate_gradients(training, 3)
    by_hand, errors = 0.0, defaultdict[int, list[float]](list)
    for dataset, weight in zip(training.datasets, (1.0, 0.25), strict=True):
        batch = dataset.batch(2)
        random = draw(batch.latents.shape, 1000, NoiseConfig(), training.seed, 3, 0, dataset.purpose, "noise")
        a = components.noise_schedule().alphas_bar[random.timesteps].reshape(-1, 1, 1, 1)
        noisy = add_noise(batch.latents, random.noise, a)
        with torch.no_grad():
            text = encode("sd2", components.text_encoders, tokenize(components.tokenizers, batch.captions)).hidden
            said = components.unet(noisy, random.timesteps, text).sample
        error = (said - prediction_target(batch.latents, random.noise, a, "v")).square().mean(dim=(1, 2, 3))
        by_hand += weight * float(error.mean())
        for timestep, value in zip(random.timesteps.tolist(), error.tolist(), strict=True):
            if dataset.purpose == "instance":
                errors[timestep // 250].append(value)
        assert set(batch.names) <= set(pictures)
    assert loss == pytest.approx(by_hand, rel=1e-5)
    assert [band for band, value in enumerate(bands) if value is not None] == sorted(errors)
    assert [value for value in bands if value is not None] == pytest.approx(
        [sum(errors[band]) / len(errors[band]) for band in sorted(errors)], rel=1e-5
    )
    assert {caption for example in training.datasets[1].examples for caption in [example.caption]} == {"a thing"}


def test_accumulated_gradients_are_the_mean_over_the_batches(tmp_path: Path, tiny_settings: Settings) -> None:
    _, training = built(tmp_path, tiny_settings(train__accumulation=3))
    accumulate_gradients(training, 1)
    together = gradients(training)
    total = {name: torch.zeros_like(value) for name, value in together.items()}
    for micro in range(3):
        training.optimizer.zero_grad()
        batch = training.datasets[0].batch(micro)
        training.denoiser.loss(
            batch, draw(batch.latents.shape, 1000, NoiseConfig(), training.seed, 1, micro, "instance", "noise")
        ).weighted.backward()
        for name, value in gradients(training).items():
            total[name] += value / 3
    for name, value in together.items():
        torch.testing.assert_close(value, total[name], rtol=1e-4, atol=1e-7)


def test_a_step_without_a_finite_loss_changes_nothing_and_the_next_one_goes_on(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    _, training = built(tmp_path, tiny_settings())
    bad = training.datasets[0].order.batch(1)[0]  # the picture of the second step
    views = list(training.datasets[0].views)
    views[bad] = (replace(views[bad][0], latents=torch.full_like(views[bad][0].latents, torch.nan)),)
    training = replace(training, datasets=(replace(training.datasets[0], views=tuple(views)),))
    take_step(training, 1)
    before = {name: p.detach().clone() for name, p in named_parameters(training.adapters).items()}
    skipped = take_step(training, 2)
    assert math.isnan(skipped.loss)
    assert "the loss is nan" in skipped.reason
    assert skipped.pictures == (training.datasets[0].examples[bad].picture.path.name,)
    assert all(torch.equal(p, before[name]) for name, p in named_parameters(training.adapters).items())
    assert (training.progress.step, training.progress.skipped, training.progress.skipped_in_a_row) == (2, 1, 1)
    assert take_step(training, 3).reason == ""
    assert (training.progress.skipped, training.progress.skipped_in_a_row) == (1, 0)
    assert any(not torch.equal(p, before[name]) for name, p in named_parameters(training.adapters).items())


def test_too_many_such_steps_end_the_run_with_the_last_good_adapter_and_the_pictures_named(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    broken = tmp_path / "broken base"
    config = tiny_settings(train__steps=50, save__every_steps=0)
    components = load_components(config.model)
    with torch.no_grad():
        components.unet.conv_out.weight.fill_(torch.inf)
    components.pipeline.save_pretrained(broken)
    config = config.model_copy(update={"model": config.model.model_copy(update={"base": str(broken)})})
    run = RunDir.create(tmp_path / "runs", config)
    with pytest.raises(DivergedError, match=r"at step 20 .* 20th time in a row. The last pictures were 0\d\.png"):
        run_training(run)
    events = read_events(run.events_file)[0]
    assert isinstance(events[-1], Failed)
    assert events[-1].category == "diverged"
    assert sum(isinstance(event, SkippedStep) for event in events) == MAX_SKIPPED_IN_A_ROW
    assert all(row.skipped and row.loss is None for row in read_metrics(run.metrics_file)[0])
    kept = CheckpointStore(run.checkpoints_dir, 1).newest()
    assert kept is not None
    assert kept.step == MAX_SKIPPED_IN_A_ROW


def test_samples_that_fail_are_a_warning_and_the_checkpoint_was_there_before(
    tmp_path: Path, tiny_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__steps=2, sample__every_steps=1))
    run.samples_dir.rmdir()
    run.samples_dir.write_text("a file where the folder of the samples belongs")
    assert run_training(run) == "finished"
    events = read_events(run.events_file)[0]
    assert sum(isinstance(event, Warned) and "No samples of step" in event.text for event in events) == 3
    assert not any(isinstance(event, Sampled) for event in events)
    assert capsys.readouterr().out.count("No samples of step") == 3
    kinds = [event.kind for event in events]
    assert kinds.index("saved") < len(kinds) - 1 - kinds[::-1].index("warned")


def test_requests_are_answered_at_the_next_step(tmp_path: Path, tiny_settings: Settings) -> None:
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__steps=3, save__every_steps=0))
    run.request("save")
    run.request("sample")
    run_training(run)
    events = read_events(run.events_file)[0]
    assert [event.step for event in events if event.kind == "saved"] == [1, 3]
    assert [event.step for event in events if event.kind == "sampled"] == [0, 1, 3]


NOISY = {"timesteps": "mode", "offset": 0.1, "pyramid": 0.3, "perturbation": 0.1}


def test_twins_start_alike_and_see_the_same_data_in_the_same_noise(tmp_path: Path, tiny_settings: Settings) -> None:
    lora, dora = create_runs(tiny_settings(train__twin=True, train__steps=2, noise=NOISY), tmp_path / "runs")
    assert twins_of(lora) == twins_of(dora) == sorted([lora, dora], key=lambda run: run.id)
    assert pair_id(lora) == pair_id(dora) is not None
    assert pair_id(RunDir.create(tmp_path / "runs", tiny_settings())) is None
    for run in (lora, dora):
        run_training(run)
    first, second = (read_metrics(run.metrics_file)[0] for run in (lora, dora))
    assert first[0].loss == second[0].loss  # before the first step both are the base model, to the bit
    assert first[1].loss != second[1].loss
    pictures = [(run.samples_dir / "step-000000" / "00.png").read_bytes() for run in (lora, dora)]
    assert pictures[0] == pictures[1]
    names = [{file.name for file in run.exports_dir.glob("*.safetensors")} for run in (lora, dora)]
    assert names == [{"tiny-lora.safetensors"}, {"tiny-dora.safetensors"}]


def test_every_is_due_at_its_multiples_and_never_for_zero() -> None:
    assert [step for step in range(8) if Every(3).is_due(step)] == [0, 3, 6]
    assert not any(Every(0).is_due(step) for step in range(8))


def built(tmp_path: Path, config: RunConfig) -> tuple[Components, Training]:
    compute = Compute(torch.device("cpu"), torch.float32)
    components = load_components(config.model)
    training = build_training(config, components, compute, Home(tmp_path / "home"), lambda name, done, total: None)
    return components, training


def gradients(training: Training) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in named_parameters(training.adapters).items() if p.grad is not None}
