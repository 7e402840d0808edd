"""Two ingest reports with numbers that are easy to check: a finished one, and one after the download."""

REPORT = {
    "rows_in": 1000,
    "written": 400,
    "waiting": 0,
    "filtered": {"duplicate": 50, "similarity>=0.3": 150},
    "failed": {"timeout": 20, "http_404": 240, "dns_error": 40},
    "rejected": {"placeholder": 25, "file_name": 75},
    "same_content": 7,
    "won_back": 11,
    "datasets": {
        "laion400m": {"rows_in": 800, "selected": 600, "arrived": 400, "written": 320},
        "cc3m": {"rows_in": 200, "selected": 200, "arrived": 100, "written": 80},
    },
    "seconds": {"select": 2.0, "download": 100.0, "tokenize": 50.0, "shuffle": 0.0},
    "stages": ["select", "download", "tokenize", "shuffle"],
}
HALF_WAY = {
    "rows_in": 10,
    "written": 0,
    "waiting": 7,
    "filtered": {},
    "failed": {"http_404": 3},
    "rejected": {},
    "same_content": None,
    "won_back": None,
    "datasets": {"web": {"rows_in": 10, "selected": 10, "arrived": 7}},
    "seconds": {"select": 1.0, "download": 2.0},
    "stages": ["select", "download"],
}
