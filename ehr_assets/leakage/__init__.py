"""The leak checks that every stage calls."""
