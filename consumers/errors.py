"""What can go wrong at the broker, by what the caller should do about it.

StreamError
├── Retry            try again with a new connection; positions tell how an unclear commit ended
│   ├── BrokerUnavailable    no answer within the deadline
│   └── OutcomeUnknown       a commit got no clear answer
└── Stop             no retry can help: say why and exit non-zero
    ├── AuthenticationFailed wrong user or password
    ├── TlsFailed            certificate or protocol refused
    ├── NotAuthorised        the user lacks a right on a topic, group or transactional id
    ├── Fenced               another process took over this transactional id
    └── TopicMissing         a topic that must exist does not
"""

from __future__ import annotations


class StreamError(Exception):
    """Root of everything a broker can do to us."""


class Retry(StreamError):
    """A new connection may help."""


class BrokerUnavailable(Retry):
    """No answer within the deadline."""


class OutcomeUnknown(Retry):
    """A commit got no clear answer: reopen, read positions again, go on from there."""


class Stop(StreamError):
    """No retry can help."""


class AuthenticationFailed(Stop):
    """Wrong user, password or token."""


class TlsFailed(Stop):
    """The TLS handshake failed: wrong authority, host name, or no TLS on that port."""


class NotAuthorised(Stop):
    """The user lacks a right on a topic, group or transactional id."""


class Fenced(Stop):
    """Another process uses the same transactional id and is newer."""


class TopicMissing(Stop):
    """A topic that must exist does not."""
