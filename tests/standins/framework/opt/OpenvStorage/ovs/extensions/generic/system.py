"""Stand-in: what a host is to the framework."""

HOME = "/opt/OpenvStorage"


def machine_id():
    """The identifier of this node: 16 letters, digits and dashes."""
    with open("/etc/openvstorage_id") as file:
        text = file.read().strip()
    if len(text) != 16 or not all(letter.isalnum() or letter == "-" for letter in text):
        raise RuntimeError("/etc/openvstorage_id does not hold 16 letters, digits and dashes")
    return text


def say(text):
    """A line of the log, for whoever reads the journal."""
    print("stand-in framework: {0}".format(text), flush=True)
