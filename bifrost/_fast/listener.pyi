from asyncio import AbstractEventLoop, BaseProtocol
from typing import Any, final

@final
class Listener(BaseProtocol):
    def __init__(
        self, config: Any, server_state: Any, app_state: Any, _loop: AbstractEventLoop | None = None
    ) -> None: ...
