"""Draws how a connection becomes SMC, and the two ways to fall back: python docs/handshake.py.

Writes _static/handshake-light.svg and -dark.svg.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

THEMES = {
    "light": {
        "paper": "#ffffff",
        "ink": "#1f2328",
        "faint": "#818b98",
        "tcp": "#bc4c00",
        "smc": "#0f62fe",
        "fill": "#eaf2ff",
        "warm": "#fff1e5",
    },
    "dark": {
        "paper": "#0d1117",
        "ink": "#e6edf3",
        "faint": "#7d8590",
        "tcp": "#ff9f5a",
        "smc": "#78a9ff",
        "fill": "#152844",
        "warm": "#3a2412",
    },
}

WIDTH, STEP, TOP = 330, 34, 84


@dataclass(frozen=True)
class Message:
    """An arrow from the client to the server, or back, or both ways."""

    text: str
    to: str  # "server", "client" or "both"
    kind: str = "tcp"


@dataclass(frozen=True)
class Scene:
    """A column of the picture."""

    title: str
    messages: tuple[Message, ...]
    outcome: str
    kind: str  # of the outcome


TCP = (
    Message("SYN, with option: I can do SMC", "server"),
    Message("SYN-ACK, with option: so can I", "client"),
    Message("ACK", "server"),
)
PROPOSAL = Message("CLC Proposal: devices, PNET ID, EIDs", "server", "smc")

SCENES = (
    Scene(
        "SMC",
        (
            *TCP,
            PROPOSAL,
            Message("CLC Accept: write to this buffer", "client", "smc"),
            Message("CLC Confirm: and you to that one", "server", "smc"),
            Message("SMC-R, first one: LLC Confirm Link", "both", "smc"),
            Message("data into the peer's memory, CDC", "both", "smc"),
        ),
        "SMC-D or SMC-R",
        "smc",
    ),
    Scene(
        "Fallback: declined",
        (
            *TCP,
            PROPOSAL,
            Message("CLC Decline: why not", "client", "tcp"),
            Message("data, as TCP", "both"),
        ),
        "TCP, reason 0x03...: no device, no EID, ...",
        "tcp",
    ),
    Scene(
        "Fallback: the peer knows no SMC",
        (
            TCP[0],
            Message("SYN-ACK, without the option", "client"),
            TCP[2],
            Message("data, as TCP", "both"),
        ),
        "TCP, reason 0x03010000",
        "tcp",
    ),
)

NO_KERNEL = (
    "No SMC in the kernel at all is another thing: socket() fails, and nothing is sent "
    "(SMCUnsupportedError)."
)


def main() -> None:
    """Writes both pictures."""
    static = Path(__file__).parent / "_static"
    for theme, colours in THEMES.items():
        (static / f"handshake-{theme}.svg").write_text(picture(colours), encoding="utf-8")


def picture(colours: dict[str, str]) -> str:
    """The SVG in these colours."""
    height = TOP + STEP * max(len(scene.messages) for scene in SCENES) + 92
    width = WIDTH * len(SCENES)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="system-ui, sans-serif" font-size="13">'
        ),
        "<title>How a connection becomes SMC, and the ways to fall back</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="{colours["paper"]}"/>',
    ]
    for kind in ("tcp", "smc"):
        parts.append(
            f'<marker id="{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
            f'markerHeight="8" orient="auto-start-reverse">'
            f'<path d="M0 0 8 4 0 8z" fill="{colours[kind]}"/></marker>'
        )
    for column, scene in enumerate(SCENES):
        parts.append(f'<g transform="translate({column * WIDTH} 0)">')
        parts += draw(scene, colours)
        parts.append("</g>")
    parts.append(text(width / 2, height - 18, NO_KERNEL, colours["faint"]))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def draw(scene: Scene, colours: dict[str, str]) -> list[str]:
    """A column: title, two lifelines, messages, outcome."""
    left, right = 36, WIDTH - 36
    bottom = TOP + STEP * len(scene.messages)
    parts = [text(WIDTH / 2, 28, scene.title, colours["ink"], 'font-weight="600" font-size="15"')]
    for x, name in ((left, "client"), (right, "server")):
        parts.append(text(x, 54, name, colours["faint"]))
        parts.append(
            f'<line x1="{x}" y1="62" x2="{x}" y2="{bottom}" stroke="{colours["faint"]}" '
            'stroke-dasharray="3 3"/>'
        )
    for row, message in enumerate(scene.messages):
        y = TOP + 8 + row * STEP
        start, end = (right, left) if message.to == "client" else (left, right)
        both = f' marker-start="url(#{message.kind})"' if message.to == "both" else ""
        parts.append(text(WIDTH / 2, y - 6, message.text, colours["ink"]))
        parts.append(
            f'<line x1="{start}" y1="{y}" x2="{end}" y2="{y}" stroke="{colours[message.kind]}" '
            f'stroke-width="1.6" marker-end="url(#{message.kind})"{both}/>'
        )
    fill = colours["fill" if scene.kind == "smc" else "warm"]
    parts.append(
        f'<rect x="20" y="{bottom + 4}" width="{WIDTH - 40}" height="30" rx="6" fill="{fill}" '
        f'stroke="{colours[scene.kind]}"/>'
    )
    parts.append(text(WIDTH / 2, bottom + 24, scene.outcome, colours["ink"]))
    return parts


def text(x: float, y: float, content: str, colour: str, more: str = "") -> str:
    """A line of text, centred."""
    attributes = f'x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="middle" {more}'
    return f"<text {attributes}>{escape(content)}</text>"


if __name__ == "__main__":
    main()
