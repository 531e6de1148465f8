"""What training makes of a folder of pictures, told before it begins: counts, sizes, captions, what is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from trainer.config_data import DataConfig
from trainer.data.buckets import Bucket, Placement, make_buckets, place
from trainer.data.captions import Captions, read_captions
from trainer.data.scan import ImageSet, Picture, scan

FEW, MANY = 10, 200  # pictures; outside, a word about it
PLAIN_MODES = ("RGB", "RGBA")
CUT_WORTH_TELLING = 0.8  # share of a picture that is kept


@dataclass(frozen=True)
class DatasetReport:
    images: ImageSet
    captions: Captions
    placements: tuple[Placement, ...]  # of each picture

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

    def batches_per_pass(self, batch_size: int) -> int:
        """Every batch is of one size; a last one is filled up with pictures of the same size."""
        return sum(-(-count // batch_size) for count in self.buckets.values())


def report_dataset(data: DataConfig, images: ImageSet | None = None) -> DatasetReport:
    """Read every picture and caption of the folder; a folder that is not there is an empty one.

    `images`: what `scan` found there with these settings, to read captions alone.
    """
    images = images or scan(data.folder, data.smallest_side_px, data.longest_ratio)
    captions = read_captions((picture.path for picture in images.pictures), data.instance_prompt)
    buckets = make_buckets(data.resolution_px, data.bucket_step_px, data.bucket_ratio)
    placements = tuple(place(picture.width, picture.height, buckets) for picture in images.pictures)
    return DatasetReport(images, captions, placements)


def dataset_notices(report: DatasetReport, batch_size: int, tokens: int) -> list[str]:
    """What a person would want to know before training starts; nothing here stops it."""
    return [
        *about_count(report.count),
        *(f"{left.path.name} is left out: {left.reason}" for left in report.images.left_out),
        *(
            f"pictures in the folder {name!r} are not used: only {report.images.folder.name!r} itself is read"
            for name in report.images.subfolders
        ),
        *_about_pictures(report),
        *_about_captions(report.captions, tokens),
        *_about_batches(report, batch_size),
    ]


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


def _about_captions(captions: Captions, tokens: int) -> list[str]:
    notices: list[str] = []
    if captions.found and captions.missing:
        missing = _named([path.name for path in captions.missing])
        notices.append(f"{missing} without a caption: the prompt of the set is used")
    if captions.unused:
        notices.append(f"{_named([path.name for path in captions.unused])} a caption of no picture: not used")
    long = [path.name for path, caption in captions.by_picture.items() if least_tokens(caption.text) > tokens]
    if long:
        notices.append(
            f"{_named(long)} with a caption longer than the {tokens} tokens that are read: the end is cut off"
        )
    return notices


def least_tokens(text: str) -> int:
    """What a caption surely takes: one for each word, number's digit and run of signs (CLIP's split), and two marks."""
    return len(re.findall(r"[^\W\d_]+|\d|[^\s\w]+|_+", text)) + 2


def _about_batches(report: DatasetReport, batch_size: int) -> list[str]:
    short = [bucket for bucket, count in report.buckets.items() if count < batch_size]
    if not short:
        return []
    sizes = ", ".join(map(str, short))
    return [f"sizes with fewer pictures than a batch of {batch_size} repeat them within it: {sizes}"]


def _named(names: list[str], shown: int = 3) -> str:
    """'5 (a.png, b.png, c.png and 2 more):', for what follows to be said of all of them."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} ({', '.join(names[:shown])}{rest}):"
