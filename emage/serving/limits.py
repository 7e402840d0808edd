"""The fixed limits of the endpoint. Those that a user can set are in emage/config/serving.py."""

# A request
MAX_PROMPT_CHARACTERS = 32_000  # as OpenAI's API; the text encoder reads less, and the answer says so
MAX_LABEL_CHARACTERS = 1_000  # of a text that changes nothing, such as `user`
MAX_IMAGES = 10  # `n`
MAX_CANDIDATES = 16  # per image
MAX_PREVIEWS = 64  # per image; the autoregressive method takes 1024 decoding steps
MAX_SCALED_SIDE = 2_048  # pixels of an image that is scaled to `size`
MAX_SEED = 2**53 - 1  # the largest whole number that every JSON parser keeps exactly

# A connection, before any request of it is passed on (emage/serving/http/transport)
MAX_CONNECTIONS = 4_096  # at one HTTP process; fewer if it may not open as many files
RESERVED_FILES = 512  # of the files that the process may open: for everything but connections
MAX_HEADER_BYTES = 16_384  # request line included
HEADER_TIMEOUT_S = 10.0  # within which a header must be complete
ANSWER_TIMEOUT_S = 30.0  # within which a client must read what is ready, up to 64 kB
LINGER_S = 5.0  # in which a client may still send its body after it was answered
MAX_UNREAD_BYTES = 65_536  # of such a body, if it is chunked, are parsed

# The body of a request
MAX_JSON_BYTES = 800_000  # of every body that holds no images; the two longest prompts need 768,000 in any JSON
MAX_JSON_VALUES = 100_000  # commas and brackets of a JSON body; the two longest prompts may have 64,000
MAX_WAITING_BODIES_BYTES = 400_000_000  # of all requests that Serve's proxy has not passed on
BODY_TIMEOUT_S = 20.0  # within which all of the body must arrive
MAX_FORM_FILES = 18  # OpenAI's API takes 16 images, a mask and a markup: the error should say which we take
MAX_FORM_FIELDS = 80
MAX_FORM_FIELD_BYTES = 130_000  # the longest prompt needs 128,000
MAX_UPLOAD_PIXELS = 40_000_000  # of an uploaded image; a larger one is not decoded

# Access
WRONG_KEY_DELAY_S = 1.0  # before a wrong API key is rejected
MAX_DELAYED_KEYS = 256  # such requests at one frontend at a time; further ones are answered at once

# The processes
MAX_RETRY_AFTER_S = 60  # in Retry-After of a full queue: an estimate for longer is worth little
MAX_OPEN_REQUESTS = 4_096  # at one frontend at a time; further ones wait in Serve's proxy
MAX_CONCURRENT_UPLOADS = 2  # decoded by one replica at a time: each may take a few hundred MB
