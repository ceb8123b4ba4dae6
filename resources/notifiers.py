"""To whom a failed run is told: the log, or a webhook.

Another way is another class with `tell`, given as the resource `notifier` (`build_definitions(overrides=…)`).
"""

import json
import logging
import urllib.request
from abc import abstractmethod
from typing import Any

from dagster import ConfigurableResource, EnvVar

from ehr_assets.settings import NOTIFY_VARIABLE, Settings

WEBHOOK_SECONDS = 10
Message = dict[str, Any]


class Notifier(ConfigurableResource):
    """Tells people of a failed run."""

    @abstractmethod
    def tell(self, message: Message, log: logging.Logger) -> None:
        """Passes on names, ids and kinds of errors. Never raises: nothing hangs on being told."""


class LogNotifier(Notifier):
    """Says it in the sensor's log."""

    def tell(self, message: Message, log: logging.Logger) -> None:
        log.error(message["text"])


class WebhookNotifier(Notifier):
    """Posts it as JSON; `text` is the key that chat services show.

    Args:
        url: from the environment, since most such addresses are secrets.
    """

    url: str

    def tell(self, message: Message, log: logging.Logger) -> None:
        log.error(message["text"])
        try:
            data = json.dumps(message).encode()
            if not self.url.startswith(("https://", "http://")):
                raise ValueError
            request = urllib.request.Request(self.url, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS):
                pass
        except Exception as e:  # its words may hold the address
            log.error(f"The webhook in {NOTIFY_VARIABLE} could not be told: {type(e).__name__}.")


def notifier(settings: Settings) -> Notifier:
    """The one that the environment asks for."""
    return WebhookNotifier(url=EnvVar(NOTIFY_VARIABLE)) if settings.notifies else LogNotifier()
