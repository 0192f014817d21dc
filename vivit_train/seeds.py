"""Where all random draws of training start."""

import hashlib


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from a key such as (seed, epoch, index), the same on every machine.

    All random draws of training start here, so none depends on the number of workers or on what
    was drawn before.
    """
    text = ":".join(map(str, key)).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
