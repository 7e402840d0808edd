"""One row of a URL table -> an image and a caption, or the reason why not. No cluster here."""
