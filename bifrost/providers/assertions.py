"""Assertions: JSON Web Tokens (RFC 7519) that a client signs to prove who it is."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bifrost.providers.asking import CredentialError


def base64url(data: bytes) -> str:
    """Base64 for addresses, without its padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def private_key(pem: bytes, what: str, password: str | None = None) -> RSAPrivateKey:
    """The RSA key in a PEM text; CredentialError says why ``what`` is not to be used."""
    try:
        key = load_pem_private_key(pem, password.encode() if password is not None else None)
    except TypeError:
        needs = "has no password" if password is not None else "needs its password"
        raise CredentialError(f"Cannot use {what}: it {needs}.", lasting=True) from None
    except (ValueError, UnsupportedAlgorithm):
        reason = "no PEM key, or its password is wrong" if password is not None else "no PEM key"
        raise CredentialError(f"Cannot use {what}: {reason}.", lasting=True) from None
    if not isinstance(key, RSAPrivateKey):
        raise CredentialError(f"Cannot use {what}: it is no RSA key.", lasting=True)
    return key


def signed_rs256(header: Mapping[str, Any], claims: Mapping[str, Any], key: RSAPrivateKey) -> str:
    """A token signed by RSASSA-PKCS1-v1_5 with SHA-256."""
    text = _text({"typ": "JWT", "alg": "RS256", **header}, claims)
    signature = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{text}.{base64url(signature)}"


def signed_ps256(header: Mapping[str, Any], claims: Mapping[str, Any], key: RSAPrivateKey) -> str:
    """A token signed by RSASSA-PSS with SHA-256 and a salt of its length (RFC 7518, 3.5)."""
    text = _text({"typ": "JWT", "alg": "PS256", **header}, claims)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
    return f"{text}.{base64url(key.sign(text.encode(), pss, hashes.SHA256()))}"


def _text(header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    return f"{base64url(json.dumps(header).encode())}.{base64url(json.dumps(claims).encode())}"
