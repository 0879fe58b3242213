"""Files that a rights holder offers by a direct link."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Download(BaseModel):
    """One file of a distribution."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(pattern=r"^https?://\S+$", description="the rights holder's own link, which needs no login")
    file: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_. ()+-]*$", description="plain name that the file is kept under"
    )
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{64}$", to_lower=True)] | None = Field(
        None, description="64 hexadecimal digits; None where the owner states none"
    )
