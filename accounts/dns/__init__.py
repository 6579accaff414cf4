"""DNS behind one small interface: `base` says what is asked, `dnspython` asks the network, `memory` a table."""
