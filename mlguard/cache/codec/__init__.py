"""Results as bytes and back, without pickle: for stores that several processes share.

`Codec` belongs to one function: it writes what that function may return, and makes nothing else from the bytes it
reads, whoever wrote them.
"""

from mlguard.cache.codec.entry import Codec, Decoded
from mlguard.cache.codec.errors import DecodeError, TooLong, Unencodable
from mlguard.cache.codec.secret import Secret
from mlguard.cache.codec.writer import encodable

__all__ = ["Codec", "DecodeError", "Decoded", "Secret", "TooLong", "Unencodable", "encodable"]
