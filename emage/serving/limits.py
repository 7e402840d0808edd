"""The fixed limits of the endpoint. Those that a user can set are in emage/config/serving.py."""

# A request
MAX_PROMPT_CHARACTERS = 4_000
MAX_IMAGES = 10  # `n`
MAX_CANDIDATES = 16  # per image
MAX_PREVIEWS = 64  # per image; the autoregressive method takes 1024 decoding steps
MAX_SEED = 2**53 - 1  # the largest whole number that every JSON parser keeps exactly

# The body of a request
BODY_TIMEOUT_S = 20.0  # within which all of the body must arrive
MAX_FORM_FILES = 4
MAX_FORM_FIELDS = 40
MAX_FORM_FIELD_BYTES = 100_000
MAX_UPLOAD_PIXELS = 40_000_000  # of an uploaded image; a larger one is not decoded

# The processes
MAX_OPEN_REQUESTS = 4_096  # at one frontend at a time; further ones wait in Serve's proxy
MAX_CONCURRENT_UPLOADS = 2  # decoded by one replica at a time: each may take a few hundred MB
