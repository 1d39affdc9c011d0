"""Notifications as people read them: Slack's incoming webhooks, and Adaptive Cards for Microsoft Teams.

Both are made of the message in its standard form when it is sent. Names and errors are put into elements of plain text:
what a registry or a caller wrote is never read as markup, a mention or a link.

Sources: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks and
https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using (workflows take the
same card).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from app.net.http_headers import PRODUCT
from app.webhooks.summary_texts import summary_facts, summary_failures, summary_title

MAX_HEADER = 150
"""Characters of a header block of Slack."""
MAX_TEXT = 2_000
"""Characters of an error; Slack takes 3,000 in a section and 2,000 in a field, Teams 28 KB in all."""
_SIGNS = {"succeeded": "✅", "failed": "❌", "cancelled": "⏹", "running": "▶"}
_STYLES = {"succeeded": "Good", "failed": "Attention", "cancelled": "Warning"}


def slack_message(message: Mapping[str, Any], *, page: str | None) -> str:
    """Write a message as Slack's incoming webhooks take it; `page` is the address of the job's page, where known."""
    title = title_of(message)
    blocks: list[dict[str, Any]] = [{"type": "header", "text": _plain(title[:MAX_HEADER])}]
    facts = [_plain(f"{name}: {value}"[:MAX_TEXT]) for name, value in facts_of(message)]
    if facts:
        blocks.append({"type": "section", "fields": facts})
    if error := error_of(message):
        blocks.append({"type": "section", "text": _plain(error)})
    if page is not None:
        button = {"type": "button", "text": _plain(_button(message)), "url": page}
        blocks.append({"type": "actions", "elements": [button]})
    return json.dumps({"text": _escaped(title), "blocks": blocks}, ensure_ascii=False)


def teams_message(message: Mapping[str, Any], *, page: str | None) -> str:
    """Write a message as a card that a Teams workflow posts; `page` is the address of the job's page, where known."""
    style = _STYLES.get(message["data"].get("state", ""), "Default")
    body = [_line(title_of(message), weight="Bolder", size="Medium", color=style)]
    body += [_line(f"{name}: {value}"[:MAX_TEXT]) for name, value in facts_of(message)]
    if error := error_of(message):
        body.append(_line(error, color="Attention"))
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    if page is not None:
        card["actions"] = [{"type": "Action.OpenUrl", "title": _button(message), "url": page}]
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return json.dumps({"type": "message", "attachments": [attachment]}, ensure_ascii=False)


def title_of(message: Mapping[str, Any]) -> str:
    """Return a message's one line for people."""
    data = message["data"]
    if "runs" in data:
        return summary_title(data)
    state = data.get("state")
    if state is None:
        return f"{PRODUCT}: a test message for {data.get('subscription', '')}"
    what = f"policy {data['policy']}" if data["policy"] else f"job {data['id'][-12:]}"
    return f"{_SIGNS.get(state, '')} {what} {'has started' if state == 'running' else state}".strip()


def facts_of(message: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what there is to tell beside the title, by name."""
    data = message["data"]
    if "runs" in data:
        yield from summary_facts(data)
        return
    if "images" not in data:
        return
    images = data["images"]
    counted = [f"{count} {name.replace('_', ' ')}" for name, count in images.items() if name != "total" and count]
    yield "Images", ", ".join(counted) or "none"
    yield "Submitted by", f"{data['created_by']} ({data['trigger']['type']})"
    if data["labels"]:
        yield "Labels", ", ".join(f"{key}={value}" for key, value in data["labels"].items())
    yield "Job", data["id"]


def error_of(message: Mapping[str, Any]) -> str:
    """Return what went wrong; nothing where nothing did."""
    if "runs" in message["data"]:
        return summary_failures(message["data"])[:MAX_TEXT]
    error = message["data"].get("error")
    return f"{error['code']}: {error['message']}"[:MAX_TEXT] if error else ""


def _button(message: Mapping[str, Any]) -> str:
    return "Open the policy" if "runs" in message["data"] else "Open the job"


def _plain(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def _line(text: str, **style: str) -> dict[str, Any]:
    """Return a block of rich text: unlike a text block of a card, it reads no markdown."""
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **style}]}


def _escaped(text: str) -> str:
    """Escape what Slack reads as markup in its fallback text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
