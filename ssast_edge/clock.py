"""Audio time for people."""


def clock(time_s: float, *, digits: int = 2) -> str:
    """1:02:03.45 or 02:03.45, with so many digits of the seconds after the point."""
    minutes, seconds = divmod(round(time_s, digits), 60)
    hours, minutes = divmod(int(minutes), 60)
    width = 3 + digits if digits else 2
    shown = f"{minutes:02d}:{seconds:0{width}.{digits}f}"
    return f"{hours}:{shown}" if hours else shown
