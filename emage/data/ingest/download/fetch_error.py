"""The exception for a URL without an image."""


class FetchError(Exception):
    """A URL that could not be downloaded.

    Attributes:
        reason: The drop reason: no_url, bad_url, bad_scheme, bad_port, private_address, dns_error (no such name, or a
            resolver that does not answer), connection_error, tls_error, timeout, too_many_redirects, http_404 (any
            status), bad_response, too_big, empty or opted_out. drop_reasons.py explains each.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason
