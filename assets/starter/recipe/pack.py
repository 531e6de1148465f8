"""Stages `pack` and `samples`: the model as an ordinary diffusers folder, and the two sets of pictures to train on."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from .captions import caption
from .data import RENDER_PX, STYLES, Concept, Pictures, picture
from .files import Failure, write_text, written_whole
from .profile import COLOURS, LICENCES, Workshop
from .unet import build_scheduler, build_text_encoder, build_unet, learned_things
from .vae import trained_vae

COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
SIZE_LIMIT = 25_000_000  # bytes: it travels with every clone of the repository
SAMPLE_PX = 256
SUBJECT = "penguin"
LEAST_OVERLAP = 0.8  # of outlines: where the two drawings differ in their style more than in what they draw

PAIRS_NOTE = """\
Things that `icons3d` does not contain, in the style that the model knows and in the style of the set: {use}.

The two styles often draw a thing in another pose or from another side, which no style can teach. So a seed draws these
from the things whose two outlines overlap by at least {share:.0%}: of the area that either covers, both cover that
much. Their names have at most two words. The rule was made before any model drew them."""
TO_MEASURE = "to measure by, never to choose settings by"
TO_CHOOSE = "to choose settings by, so that nothing is chosen on `held-out`"

SAMPLES_NOTE = """# {title}

{text}

The drawings are from {licence}; composed over plain colours by `assets/starter/build.py samples`.
"""


def assemble(shop: Workshop) -> StableDiffusionPipeline:
    """The pipeline from the stages' checkpoints, in float32."""
    checkpoint = shop.work / "unet.pt"
    if not checkpoint.exists():
        raise Failure(f"{checkpoint} is missing: run the stage `unet` first.")
    tokenizer = CLIPTokenizer.from_pretrained(shop.work / "tokenizer")
    averages = torch.load(checkpoint, map_location="cpu", weights_only=True)["average"]
    parts = {"unet": build_unet(shop.profile), "text": build_text_encoder(shop.profile, tokenizer)}
    for name, module in parts.items():
        module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in averages.items() if k.startswith(f"{name}.")})
    return StableDiffusionPipeline(
        vae=trained_vae(shop),
        text_encoder=parts["text"].to(shop.device).eval(),
        tokenizer=tokenizer,
        unet=parts["unet"].to(shop.device).eval(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def pack(shop: Workshop) -> None:
    """Write the pipeline in float16 into ``starter/``, replacing its components one whole folder at a time."""
    target = shop.assets / "starter"
    if up_to_date(target / "model_index.json", shop):
        return
    pipeline = assemble(shop).to("cpu", torch.float16)
    with written_whole(target / "packed", folder=True) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
        for name in ("vocab.json", "merges.txt"):  # what versions of the tokenizer before transformers 5 read
            shutil.copy(shop.work / "tokenizer" / name, temporary / "tokenizer" / name)
        _load_as_float32(temporary / "text_encoder" / "config.json")
        size = sum(file.stat().st_size for file in temporary.rglob("*") if file.is_file())
        if size > SIZE_LIMIT:
            raise Failure(
                f"the model takes {size:,} bytes, more than {SIZE_LIMIT:,}: make a network of the profile smaller."
            )
    packed = target / "packed"
    for name in (*COMPONENTS, "model_index.json"):
        old = target / name
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        (packed / name).rename(old)
    shutil.rmtree(packed)


def _load_as_float32(config: Path) -> None:
    """transformers loads in the dtype that a config names, diffusers in float32: name that, or the parts do not fit."""
    write_text(config, json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")


def up_to_date(made: Path, shop: Workshop) -> bool:
    """Whether `made` is newer than the last training."""
    trained = shop.work / "unet.pt"
    return made.exists() and trained.exists() and made.stat().st_mtime > trained.stat().st_mtime


def write_samples(shop: Workshop) -> None:
    """``icons3d`` (16 things, a style), ``subject`` (one), ``held-out`` and ``selection`` (12 true pairs each)."""
    pictures, shuffled = Pictures.load(shop.work), random.Random(shop.seed)
    target = shop.assets / "samples"
    known = [pictures.concepts[i] for i in learned_things(pictures, shop.profile)]
    style = _style_set(known, shuffled)
    _write_set(target / "icons3d", pictures, style, "a style to learn", "3D icons")
    _write_set(target / "subject", pictures, _subject_set(known, shuffled), "a subject to learn", f"One {SUBJECT}")
    unused = [c for c in known if c not in [row[0] for row in style] and len(c.name.split()) <= 2]
    alike = [c for c in unused if overlap(pictures, pictures.concepts.index(c)) >= LEAST_OVERLAP]
    held_out = shuffled.sample(alike, len(COLOURS))
    _write_pairs(target / "held-out", pictures, held_out, "Held out", TO_MEASURE)
    others = [c for c in alike if c not in held_out]
    _write_pairs(target / "selection", pictures, shuffled.sample(others, len(COLOURS)), "Selection", TO_CHOOSE)


def overlap(pictures: Pictures, index: int) -> float:
    """Of a thing's two outlines: the area that both cover, as a share of the area that either covers."""
    flat, solid = (drawn[index, 3] >= 128 for drawn in (pictures.flat, pictures.solid))
    return ((flat & solid).sum() / (flat | solid).sum()).item()


def _style_set(known: list[Concept], shuffled: random.Random) -> list[tuple[Concept, str, float, str]]:
    plain = [c for c in known if len(c.name.split()) <= 2]
    groups = sorted({c.group for c in plain})
    colours = list(COLOURS) + shuffled.sample(list(COLOURS), 4)
    chosen: list[Concept] = []
    while len(chosen) < 16:
        members = [c for c in plain if c.group == groups[len(chosen) % len(groups)]]
        chosen.append(shuffled.choice([c for c in members if c not in chosen]))
    shuffled.shuffle(colours)
    pairs = zip(chosen, colours, strict=True)
    return [(c, colour, 1.0, f"{caption(c, colour)}, 3d style") for c, colour in pairs]


def _subject_set(known: list[Concept], shuffled: random.Random) -> list[tuple[Concept, str, float, str]]:
    thing = next(c for c in known if c.name == SUBJECT)
    named = replace(thing, name=f"sks {SUBJECT}")
    sizes = (1.0, 0.7, 0.85, 1.0, 0.8, 0.9)
    colours = shuffled.sample(list(COLOURS), len(sizes))
    return [(thing, c, s, caption(named, c)) for c, s in zip(colours, sizes, strict=True)]


def _write_pairs(target: Path, pictures: Pictures, concepts: list[Concept], title: str, use: str) -> None:
    """Things that the style set does not contain, in both styles: what a model that learned the style should draw."""
    with written_whole(target, folder=True) as temporary:
        for number, (concept, colour) in enumerate(zip(concepts, COLOURS, strict=True), start=1):
            index = pictures.concepts.index(concept)
            name = f"{number:02d}-{concept.name.lower().replace(' ', '-')}"
            for style in STYLES:
                drawn = picture(pictures.draw(style, index, COLOURS[colour], RENDER_PX))
                drawn.save(temporary / f"{name}.{style}.jpg", quality=92)
            write_text(temporary / f"{name}.txt", f"{caption(concept, colour)}, 3d style\n")
        text = PAIRS_NOTE.format(share=LEAST_OVERLAP, use=use)
        licence = f"{LICENCES['@iconify-json/noto']} (flat), and {LICENCES['@lobehub/fluent-emoji-3d']} (3d)"
        write_text(temporary / "README.md", SAMPLES_NOTE.format(title=title, text=text, licence=licence))


def _write_set(
    target: Path, pictures: Pictures, rows: list[tuple[Concept, str, float, str]], use: str, title: str
) -> None:
    with written_whole(target, folder=True) as temporary:
        for number, (concept, colour, size, text) in enumerate(rows, start=1):
            index = pictures.concepts.index(concept)
            name = f"{number:02d}-{concept.name.lower().replace(' ', '-')}"
            drawn = picture(pictures.draw("3d", index, COLOURS[colour], SAMPLE_PX, size))
            drawn.save(temporary / f"{name}.jpg", quality=92)
            write_text(temporary / f"{name}.txt", text + "\n")
        note = f"{len(rows)} pictures of {SAMPLE_PX} px with their captions: {use}."
        licence = LICENCES["@lobehub/fluent-emoji-3d"]
        write_text(temporary / "README.md", SAMPLES_NOTE.format(title=title, text=note, licence=licence))
