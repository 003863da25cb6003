"""The options of a program that say which images it works on."""

from dataclasses import dataclass
from pathlib import Path

FILE_SOURCES = ("idx", "folder", "npz")


@dataclass(frozen=True)
class DataOptions:
    """Where the images are; the base of a program's `Config`."""

    data: str = "digits"
    """digits; idx, folder or npz, with --path; or a prepared data set such as mnist."""
    path: Path | None = None
    """The files of idx, folder or npz, with a train and a test split."""
    data_dir: Path | None = None
    """Where data sets are prepared; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    size: int | None = None
    """Image files: resize the shorter side to this many pixels and cut out the square."""

    def __post_init__(self) -> None:
        for name in ("path", "data_dir"):
            if (place := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(place))  # a string does as well
        if (self.path is None) == (self.data in FILE_SOURCES):
            needs = "needs --path" if self.path is None else "takes no --path"
            raise ValueError(f"`data` {self.data!r} {needs}.")
        if self.size is not None and self.data in ("digits", "idx", "npz"):
            raise ValueError(
                f"`size` resizes image files; {self.data} come as they are, got {self.size}."
            )
