"""How bytes get in and out: connections, protocols' codecs, and status codes. It knows no model."""
