# SPDX-License-Identifier: Apache-2.0
"""Fetches Debian's translated manuals and aligns their paragraphs into sentence pairs.

The texts stay in a cache folder: they are used to train and to evaluate, never shipped.
"""

from __future__ import annotations

import difflib
import html.parser
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CACHE_FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "manuals"
"""Where packages are downloaded and unpacked unless a caller says otherwise."""

_BLOCK_TAGS = frozenset({"p", "li", "h1", "h2", "h3", "h4", "dt"})
_CLOSING_TAGS = _BLOCK_TAGS | {"div", "ul"}
_SKIPPED_TAGS = frozenset({"script", "style", "nav", "footer", "pre"})
_LENGTH_CHARACTERS = range(26, 600)
_SHORTEST_MATCH_BLOCKS = 4


@dataclass(frozen=True)
class Manual:
    """One translated manual: its Debian packages and where they keep their pages.

    ``{language}`` in the patterns is a two-letter code; the star stands for the page.
    """

    name: str
    english_package: str
    foreign_package: str
    english_pages: str
    foreign_pages: str

    def packages(self, language: str) -> tuple[str, str]:
        """Names the English and the translated package."""
        return self.english_package, self.foreign_package.format(language=language)


@dataclass(frozen=True)
class Pair:
    """One paragraph in English and in the other language."""

    page: str
    english: str
    foreign: str


FAQ = Manual(
    "debian-faq",
    "debian-faq",
    "debian-faq-{language}",
    "usr/share/doc/debian/FAQ/*.en.html",
    "usr/share/doc/debian/FAQ/{language}/*.{language}.html",
)
DEVELOPERS_REFERENCE = Manual(
    "developers-reference",
    "developers-reference",
    "developers-reference-{language}",
    "usr/share/developers-reference/*.html",
    "usr/share/developers-reference/{language}/*.html",
)
APTITUDE = Manual(
    "aptitude",
    "aptitude-doc-en",
    "aptitude-doc-{language}",
    "usr/share/doc/aptitude/html/en/*.html",
    "usr/share/doc/aptitude/html/{language}/*.html",
)
MAINTAINERS_GUIDE = Manual(
    "maint-guide",
    "maint-guide",
    "maint-guide-{language}",
    "usr/share/doc/maint-guide/html/*.en.html",
    "usr/share/doc/maint-guide-{language}/html/*.{language}.html",
)


class _BlockParser(html.parser.HTMLParser):
    """Collects (tag, text) of paragraph-like elements in document order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[str, str]] = []
        self._tag = ""
        self._text = ""
        self._skip_depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED_TAGS:
            self._skip_depth += 1
        if tag in _BLOCK_TAGS:
            self.flush()
            self._tag = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED_TAGS:
            self._skip_depth = max(0, self._skip_depth - 1)
        if tag in _CLOSING_TAGS:
            self.flush()

    def handle_data(self, data: str) -> None:
        if self._tag and not self._skip_depth:
            self._text += data

    def flush(self) -> None:
        """Ends the open block, if any."""
        text = re.sub(r"\s+", " ", self._text).strip(" \u00b6")
        if self._tag and text:
            self.blocks.append((self._tag, text))
        self._tag = self._text = ""


def _read_blocks(page: Path) -> list[tuple[str, str]]:
    parser = _BlockParser()
    parser.feed(page.read_text(encoding="utf-8", errors="replace"))
    parser.flush()
    return parser.blocks


def _align_pages(english_page: Path, foreign_page: Path) -> list[tuple[str, str]]:
    english, foreign = _read_blocks(english_page), _read_blocks(foreign_page)
    if [tag for tag, _ in english] == [tag for tag, _ in foreign]:
        return [(a, b) for (_, a), (_, b) in zip(english, foreign, strict=True)]

    # A translation that lags behind its original: keep long runs of equal structure only.
    def signature(blocks: list[tuple[str, str]]) -> list[str]:
        return [f"{tag}{min(len(text) // 120, 4)}" for tag, text in blocks]

    matcher = difflib.SequenceMatcher(None, signature(english), signature(foreign), autojunk=False)
    if matcher.ratio() < 0.9:
        return []
    return [
        (english[match.a + step][1], foreign[match.b + step][1])
        for match in matcher.get_matching_blocks()
        if match.size >= _SHORTEST_MATCH_BLOCKS
        for step in range(match.size)
    ]


def _is_translated(foreign: str, language: str) -> bool:
    """Tells whether a Russian paragraph is in Russian; other languages share our alphabet."""
    if language != "ru":
        return True
    letters = [letter for letter in foreign if letter.isalpha()]
    cyrillic = sum("\u0400" <= letter <= "\u04ff" for letter in letters)
    return 2 * cyrillic > len(letters)


def _fetch(package: str, cache: Path) -> Path:
    """Downloads and unpacks one package into the cache without installing it."""
    unpacked = cache / package
    if unpacked.is_dir():
        return unpacked
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"{tool} is not here: the manuals come from Debian packages")
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n", encoding="utf-8")
    print(f"apt-get download {package}", flush=True)
    result = subprocess.run(
        ["apt-get", "download", package], cwd=cache, capture_output=True, text=True, check=False
    )
    archives = sorted(cache.glob(f"{package}_*.deb"))
    if result.returncode != 0 or not archives:
        raise RuntimeError(
            f"apt-get download {package} failed (is 'apt-get update' needed?): "
            f"{result.stderr.strip()}"
        )
    partial = cache / f"{package}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    subprocess.run(["dpkg-deb", "-x", archives[-1], partial], check=True)
    return partial.rename(unpacked)


def package_versions(used: list[tuple[Manual, str]], cache: Path = CACHE_FOLDER) -> dict[str, str]:
    """Looks up the versions of fetched packages, for the record beside a result.

    Args:
        used: manuals with the language of the translation.
        cache: folder that `aligned_pairs` was given.

    Returns:
        Debian version by package name.
    """
    names = sorted({name for manual, language in used for name in manual.packages(language)})
    archives = {name: sorted(cache.glob(f"{name}_*.deb"))[-1].name for name in names}
    return {name: archive.split("_")[1] for name, archive in archives.items()}


def aligned_pairs(manual: Manual, language: str, cache: Path = CACHE_FOLDER) -> list[Pair]:
    """Reads one manual as paragraph pairs, fetching its packages first where needed.

    Paragraphs are paired by page name and block structure. Repeated, very short, very long and
    untranslated ones are left out; on pages whose structures differ a few pairs may be off by one.

    Args:
        manual: one of the manuals of this module.
        language: two-letter code of the translation.
        cache: folder for downloaded and unpacked packages.

    Returns:
        Pairs in page order.

    Raises:
        RuntimeError: the packages cannot be fetched or hold no aligned pages.
    """
    english_root, foreign_root = (_fetch(name, cache) for name in manual.packages(language))
    foreign_pattern = foreign_root / manual.foreign_pages.format(language=language)
    page_suffix = manual.english_pages.rpartition("*")[2]
    pairs: list[Pair] = []
    seen: set[str] = set()
    for english_page in sorted(english_root.glob(manual.english_pages)):
        page = english_page.name.removesuffix(page_suffix)
        foreign_page = Path(str(foreign_pattern).replace("*", page))
        if not foreign_page.exists():
            continue
        for english, foreign in _align_pages(english_page, foreign_page):
            lengths_fit = all(len(text) in _LENGTH_CHARACTERS for text in (english, foreign))
            if (
                lengths_fit
                and english != foreign
                and not seen & {english, foreign}
                and _is_translated(foreign, language)
            ):
                seen |= {english, foreign}
                pairs.append(Pair(page, english, foreign))
    if not pairs:
        raise RuntimeError(f"{manual.name} ({language}): no aligned paragraphs in {cache}")
    return pairs
