"""The web UIs for engineers and for auditors: servers, the nginx before them, and who may come in."""
