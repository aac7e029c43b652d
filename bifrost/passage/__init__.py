"""Passages: how a call reaches a host that speaks another dialect than its client, or the client's
own where that is not Anthropic's, and how the answer comes back.

Behind a passage the pipeline meters, settles and streams as if the host spoke Anthropic's dialect:
whatever a host tells is also read into it, for the meters alone where the client speaks another.
"""
