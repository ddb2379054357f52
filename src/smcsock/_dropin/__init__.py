"""SMC for programs that know nothing of it: install() and 'smcsock run'.

The objects that a program makes stay what it asked for, socket.socket or classes
derived from it; the descriptor inside is that of an SMC socket.
"""
