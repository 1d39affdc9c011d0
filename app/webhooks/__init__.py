"""Webhooks: push events of registries come in, notifications go out.

No registry is asked here, and no address in a payload is ever visited.

    inbound.py          verifies who sent a delivery, and hands it to the dialect its hook is set to
    google_tokens.py    the token of Google's push deliveries; google_keys.py: the keys it is checked with
    dialects/           one sender each: bytes → deliveries; payload.py: fields of a payload, read leniently
    event_formats.py    formats that several senders share: Distribution's, Harbor's, CloudEvents
    messages.py         notifications of jobs
    chat_messages.py    the same for Slack and Teams; email_messages.py: by e-mail
    summary_texts.py    a day of a policy in words
    outbound.py         signs notifications, and sends them to a subscription's address; mailer.py: to a mail server
"""
