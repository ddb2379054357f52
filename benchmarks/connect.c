/* What a program's sockets cost: connect WHAT COUNT prints nanoseconds, the median of COUNT.

   socket      socket(), close()
   connection  socket(), connect(), accept(), a byte, close() of both ends
   echo        a round trip of 64 bytes on one connection */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void
check(long result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

static double
now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int
connect_to(const struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    check(fd, "socket");
    check(connect(fd, (const struct sockaddr *)address, sizeof *address), "connect");
    return fd;
}

static int
compare(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

int
main(int argc, char **argv)
{
    if (argc != 3) {
        return 2;
    }
    size_t count = (size_t)atol(argv[2]);
    double *times = calloc(count, sizeof *times);
    if (times == NULL) {
        return 1;
    }
    char data[64] = "x";
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    check(listener, "socket");
    check(bind(listener, (struct sockaddr *)&address, sizeof address), "bind");
    check(listen(listener, 128), "listen");
    check(getsockname(listener, (struct sockaddr *)&address, &size), "getsockname");
    int client = connect_to(&address), server = accept(listener, NULL, NULL);
    check(server, "accept");
    for (size_t i = 0; i < count; i++) {
        double begin = now();
        if (strcmp(argv[1], "socket") == 0) {
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            check(fd, "socket");
            close(fd);
        }
        else if (strcmp(argv[1], "connection") == 0) {
            int one = connect_to(&address), other = accept(listener, NULL, NULL);
            check(other, "accept");
            check(write(one, data, 1), "write");
            check(read(other, data, 1), "read");
            close(one);
            close(other);
        }
        else {
            check(write(client, data, sizeof data), "write");
            check(recv(server, data, sizeof data, MSG_WAITALL), "recv");
            check(write(server, data, sizeof data), "write");
            check(recv(client, data, sizeof data, MSG_WAITALL), "recv");
        }
        times[i] = now() - begin;
    }
    qsort(times, count, sizeof *times, compare);
    printf("%.1f\n", times[count / 2]);
    return 0;
}
