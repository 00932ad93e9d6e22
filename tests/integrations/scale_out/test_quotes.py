"""What the pages on scale-out, predictors and streams quote is what the examples say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"
QUOTE = re.compile(r"\]\((examples/[^)\s]+)\)(?:(?!```).)*?\n\n```(?:py|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["scale-out.md", "predictors.md", "streams.md"])
def test_each_quote_is_in_its_file(page: str) -> None:
    """A block that is not run stands below a link to the example that it is a part of, which tests run."""
    text = (DOCS / page).read_text()
    quotes = QUOTE.findall(text)
    assert len(quotes) == text.count("```py\n") + text.count("```toml\n") > 0
    for file, quoted in quotes:
        assert quoted in (DOCS / file).read_text(), f"{file} does not say:\n{quoted}"
