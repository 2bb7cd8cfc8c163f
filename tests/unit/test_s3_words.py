"""Text that is not ASCII travels as encoded words, and nothing that a header must not hold comes out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhold.s3.syntax.words import decode_words, encode_words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, =2D?", "plain, =2D?"),
        ("", ""),
        ("Grüße", "=?UTF-8?B?R3LDvMOfZQ==?="),
        ("Grüße von dort und von hier", "=?UTF-8?Q?Gr=C3=BC=C3=9Fe_von_dort_und_?= =?UTF-8?Q?von_hier?="),
        ("東京", "=?UTF-8?B?5p2x5Lqs?="),
        ("a\r\nb", "=?UTF-8?Q?a=0D=0Ab?="),
    ],
)
def test_text_is_written_so_that_mail_safe_readers_take_it(text: str, shown: str) -> None:
    assert encode_words(text) == shown
    assert decode_words(shown) == text


@pytest.mark.parametrize(
    "text", ["=?UTF-8?Q?=FF?=", "=?utf-7?Q?+AAA-?=", "=?foo", "=?zlib?B?AAAA?=", "=?UTF-8?B?!!!!!?=", "=?UTF-8?B?A?="]
)
def test_words_that_cannot_be_read_stay_as_they_are(text: str) -> None:
    assert decode_words(text) == text


@given(st.text(max_size=200))
def test_what_was_written_is_read_again_and_fits_a_header(text: str) -> None:
    text = text.encode("utf-8", "replace").decode().replace("=?", "")
    shown = encode_words(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert all(len(word) <= 75 for word in shown.split(" ") if word.startswith("=?UTF-8?"))
    assert decode_words(shown) == text
