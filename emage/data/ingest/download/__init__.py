"""The download of one URL: its bytes, from servers that may be slow or hostile, or a drop reason.

fetch.py is the entry. It uses url.py (which URLs are asked), public_addresses.py and safe_connection.py (which
addresses), response.py (HTTP), statuses.py (which answers are images, and which may be one later), robots_tag.py
(opt-outs) and memory_budget.py.
"""
