"""What training makes of folders of pictures, told before it begins: counts, sizes, captions, what is left out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trainer.config_data import DataConfig, ImageSetConfig
from trainer.data.buckets import Bucket, Placement, make_buckets, place, variants
from trainer.data.captions import BadMetadataError, Captions, read_captions
from trainer.data.masks import Masks, find_masks
from trainer.data.scan import ImageSet, Picture, scan
from trainer.data.wording import is_balanced, plain, wordings

FEW, MANY = 10, 200  # pictures; outside, a word about it
PLAIN_MODES = ("RGB", "RGBA")
CUT_WORTH_TELLING = 0.8  # share of a picture that is kept
KOHYA = re.compile(r"(\d+)_(.+)")  # how kohya's trainer has folders named: repeats, prompt
SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)
Scan = Callable[[Path, int, float], ImageSet]


@dataclass(frozen=True)
class DatasetReport:
    """One image set. `problems` begin with the name of the setting within the set."""

    settings: ImageSetConfig
    images: ImageSet
    captions: Captions
    placements: tuple[Placement, ...]  # of each picture, the first of its variants
    masks: Masks | None
    problems: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.images.pictures)

    @cached_property
    def buckets(self) -> Mapping[Bucket, int]:
        """Pictures by the size that they are trained at, most first."""
        return dict(Counter(placement.bucket for placement in self.placements).most_common())

    @property
    def largest(self) -> Bucket | None:
        """The size with the most pixels that occurs."""
        return max(self.buckets, key=lambda bucket: bucket.width * bucket.height, default=None)

    @property
    def wordings(self) -> list[frozenset[str] | None]:
        """Of each caption, None where they are too many to keep."""
        return [wordings(caption.text, self.settings) for caption in self.captions.by_picture.values()]

    def variants(self, placement: Placement) -> tuple[Placement, ...]:
        return variants(placement, self.settings.crop_jitter, self.settings.flip)


def report_dataset(one: ImageSetConfig, data: DataConfig, images: ImageSet | None = None) -> DatasetReport:
    """Read every picture, caption and mask of a set; a folder that is not there is an empty one.

    `data`: what all sets have in common. `images`: what `scan` found there with these settings, to read the rest alone.
    """
    images = images or scan(one.folder, data.smallest_side_px, data.longest_ratio)
    buckets = make_buckets(data.resolution_px, data.bucket_step_px, data.bucket_ratio)
    placements = tuple(place(picture.width, picture.height, buckets) for picture in images.pictures)
    captions, problems = _captions(one, images)
    masks = None if one.mask is None else find_masks(images, one.mask.source)
    problems = [*_about_folder(one, images), *problems, *_about_wording(one, captions)]
    problems += [] if masks is None else [f"mask.source: {problem}" for problem in masks.problems]
    return DatasetReport(one, images, captions, placements, masks, tuple(problems))


def report_datasets(data: DataConfig, look_at: Scan = scan) -> tuple[DatasetReport, ...]:
    return tuple(
        report_dataset(one, data, look_at(one.folder, data.smallest_side_px, data.longest_ratio))
        for one in (data, *data.more)
    )


def shown_in_pass(reports: Sequence[DatasetReport]) -> Mapping[Bucket, int]:
    """How often a pass over sets that are trained together shows pictures of each size."""
    shown: Counter[Bucket] = Counter()
    for report in reports:
        shown.update({bucket: count * report.settings.repeats for bucket, count in report.buckets.items()})
    return shown


def batches_per_pass(reports: Sequence[DatasetReport], batch_size: int) -> int:
    """Every batch is of one size; a last one is filled up with pictures of the same size."""
    return sum(-(-count // batch_size) for count in shown_in_pass(reports).values())


def notices_of_all(reports: Sequence[DatasetReport], batch_size: int) -> list[str]:
    """Of sets that are trained together: what none of them alone can tell."""
    told = about_count(sum(report.count for report in reports))
    if len(reports) == 1 and (repeats := reports[0].settings.repeats) > 1:
        told.append(
            f"data.repeats is {repeats} and there is one set: it makes a pass longer and nothing else different"
        )
    short = [str(bucket) for bucket, count in shown_in_pass(reports).items() if count < batch_size]
    if short:
        sizes = ", ".join(short)
        told.append(f"sizes with fewer pictures than a batch of {batch_size} repeat them within it: {sizes}")
    return told


def notices_of_sets(datasets: Sequence[DatasetReport], tokens: int) -> list[str]:
    """Where there are several sets, each with the name of its folder."""
    return [
        f"{report.images.folder.name}: {notice}" if len(datasets) > 1 else notice
        for report in datasets
        for notice in dataset_notices(report, tokens)
    ]


def dataset_notices(report: DatasetReport, tokens: int) -> list[str]:
    """What a person would want to know of a set before training starts; nothing here stops it."""
    return [
        *(f"{left.path.name} is left out: {left.reason}" for left in report.images.left_out),
        *_about_subfolders(report),
        *_about_pictures(report),
        *_about_captions(report, tokens),
        *_about_masks(report),
    ]


def _captions(one: ImageSetConfig, images: ImageSet) -> tuple[Captions, list[str]]:
    pictures = [picture.path for picture in images.pictures]
    try:
        return read_captions(pictures, one.instance_prompt, one.caption_source), []
    except BadMetadataError as error:
        none = read_captions(pictures, one.instance_prompt, "prompt")
        return none, [f"folder: {error.sentence} {error.fix}"]


def _about_folder(one: ImageSetConfig, images: ImageSet) -> list[str]:
    start = f"folder is {str(one.folder)!r}"
    if not one.folder.is_dir():
        return [f"{start}: there is no such folder, give one with pictures"]
    if images.pictures:
        return []
    looked_at = len(images.left_out)
    found = f"{looked_at} files, none of which can be used" if looked_at else "no pictures"
    inside = f" (folders with pictures in it: {', '.join(images.subfolders)})" if images.subfolders else ""
    return [f"{start}: it holds {found}{inside}, put 10 to 50 pictures there"]


def _about_wording(one: ImageSetConfig, captions: Captions) -> list[str]:
    problems: list[str] = []
    if (missing := len(captions.missing)) and not plain(one.instance_prompt, one):
        count = len(captions.by_picture)
        problems.append(
            f"instance_prompt is empty, and {missing} of {count} pictures have no caption: give one of both"
        )
    odd = [path.name for path, caption in captions.by_picture.items() if not is_balanced(caption.text)]
    if one.wildcards and odd:
        problems.append(f"wildcards: {_named(odd)} a caption with a brace that has no other one, close it")
    return problems


def _about_subfolders(report: DatasetReport) -> list[str]:
    folder = report.images.folder
    told = [
        f"pictures in the folder {name!r} are not used: only {folder.name!r} itself is read{_as_kohya(folder / name)}"
        for name in report.images.subfolders
    ]
    own = KOHYA.fullmatch(folder.name)
    if own and report.settings.repeats == 1:
        told.append(
            f"{folder.name!r} is named as kohya's trainer has it: here that is repeats={own[1]} and "
            f"instance_prompt={own[2]!r}, which are not set by a folder's name"
        )
    return told


def _as_kohya(folder: Path) -> str:
    found = KOHYA.fullmatch(folder.name)
    if not found:
        return ""
    path, prompt = (json.dumps(text, ensure_ascii=False) for text in (str(folder), found[2]))  # as TOML writes texts
    return f"; as with kohya's trainer: data.more=[{{folder={path}, repeats={found[1]}, instance_prompt={prompt}}}]"


def about_count(count: int) -> list[str]:
    if 0 < count < FEW:
        return [f"{count} pictures are few: 10 to 50 are usual"]
    if count > MANY:
        return [f"{count} pictures are many: 10 to 50 are usual, and more need more steps"]
    return []


def _about_pictures(report: DatasetReport) -> list[str]:
    pictures = report.images.pictures
    together = list(zip(pictures, report.placements, strict=True))
    enlarged = [picture for picture, placement in together if placement.scaled[0] > picture.width]
    cut = [picture for picture, placement in together if placement.kept < CUT_WORTH_TELLING]
    groups: list[tuple[list[Picture], str]] = [
        ([picture for picture in pictures if picture.is_rotated], "stored turned: trained upright"),
        ([picture for picture in pictures if picture.is_transparent], "transparent: laid on data.background"),
        ([picture for picture in pictures if picture.is_animated], "animated: the first frame counts"),
        ([picture for picture in pictures if picture.mode not in PLAIN_MODES], "not in RGB: converted"),
        (enlarged, "smaller than its training size: enlarged"),
        (cut, f"cut by more than {1 - CUT_WORTH_TELLING:.0%}: widen data.bucket_ratio to keep more"),
    ]
    return [f"{_named([picture.path.name for picture in group])} {what}" for group, what in groups if group]


def _about_captions(report: DatasetReport, tokens: int) -> list[str]:
    captions, options = report.captions, report.settings
    notices: list[str] = []
    if captions.found and captions.missing:
        missing = _named([path.name for path in captions.missing])
        notices.append(f"{missing} without a caption: the prompt of the set is used")
    if captions.unused:
        notices.append(f"{_named([path.name for path in captions.unused])} a caption of no picture: not used")
    texts = {path.name: plain(caption.text, options) for path, caption in captions.by_picture.items()}
    if long := [name for name, text in texts.items() if least_tokens(text) > tokens]:
        notices.append(
            f"{_named(long)} with a caption longer than the {tokens} tokens that are read: the end is cut off"
        )
    if options.flip and (sided := [name for name, text in texts.items() if SIDES.search(text)]):
        notices.append(f"{_named(sided)} with left or right in the caption, and flip shows half of them mirrored")
    return notices


def _about_masks(report: DatasetReport) -> list[str]:
    if report.masks is None or not report.masks.missing:
        return []
    return [f"{_named([path.name for path in report.masks.missing])} without a mask: all of it counts"]


def least_tokens(text: str) -> int:
    """What a caption surely takes: one for each word, number's digit and run of signs (CLIP's split), and two marks."""
    return len(re.findall(r"[^\W\d_]+|\d|[^\s\w]+|_+", text)) + 2


def _named(names: list[str], shown: int = 3) -> str:
    """'5 (a.png, b.png, c.png and 2 more):', for what follows to be said of all of them."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} ({', '.join(names[:shown])}{rest}):"
