"""The mail room: what senders send, and how they prove who they are."""
