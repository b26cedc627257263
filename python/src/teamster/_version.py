"""Which release is this? The crate's, whose executable carries these files."""

VERSION = "0.1.0"
