"""How dates are written in pages, by language (the setting FORMAT_MODULE_PATH)."""
