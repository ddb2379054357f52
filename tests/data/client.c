/* A client without a C library: connects to 127.0.0.1:PORT, PORT being the first argument,
   sends a byte and waits for one.  As an i386 program it may be linked where there is no
   i386 C library, and makes its calls by socketcall(2), as glibc's static ones do. */

struct address {
    unsigned short family, port;
    unsigned int host;
    char zero[8];
};

static long
call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

enum { EXIT = 1, READ = 3, WRITE = 4, SOCKETCALL = 102 };
enum { SOCKET = 1, CONNECT = 3 };

static long
client(const char *text)
{
    unsigned port = 0;
    char byte = 'x';
    for (; *text != 0; text++) {
        port = port * 10 + (unsigned)(*text - '0');
    }
    struct address address = {2, (unsigned short)(port >> 8 | port << 8), 0x0100007f, {0}};
    long arguments[] = {2, 1, 0};
    long fd = call(SOCKETCALL, SOCKET, (long)arguments, 0);
    arguments[0] = fd;
    arguments[1] = (long)&address;
    arguments[2] = sizeof address;
    if (call(SOCKETCALL, CONNECT, (long)arguments, 0) != 0 || call(WRITE, fd, (long)&byte, 1) != 1) {
        return 1;
    }
    return call(READ, fd, (long)&byte, 1) != 1;
}

__attribute__((used)) static void
start(const long *stack)
{
    call(EXIT, client((const char *)stack[2]), 0, 0);
}

__asm__(".globl _start\n_start:\n\tpush %esp\n\tcall start\n");
