"""A repository's files from the Hugging Face cache, or from the hub where the cache has none."""

from __future__ import annotations

from pathlib import Path


def snapshot(model: str, wanted: list[str]) -> Path:
    """Find the folder with a repository's files, downloading them where they are not cached.

    A download that was broken off leaves a folder too: whoever reads it names the file it lacks.

    Args:
        model: Hugging Face id, "owner/name".
        wanted: patterns of the files to download.

    Raises:
        OSError: as `snapshot_download` does (`HfHubHTTPError`, `LocalEntryNotFoundError`, ...);
            what is to be done about it depends on the repository.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=wanted, local_files_only=True))
    except LocalEntryNotFoundError:
        return Path(snapshot_download(model, allow_patterns=wanted))
