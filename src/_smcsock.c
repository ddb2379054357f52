/* _smcsock: the system calls of AF_SMC sockets.

   CPython's socket module opens an AF_SMC socket but cannot build an address
   for it.  An SMC socket takes and gives sockaddr_in and sockaddr_in6, so this
   module does here what Modules/socketmodule.c does for a TCP socket: addresses,
   name resolution, deadlines, signals (PEP 475), audit events.  It adds what SMC
   needs and TCP does not: a connect() that knows how the kernel's SMC connect
   fails (net/smc/af_smc.c), and the sock_diag records of sockets
   (linux/smc_diag.h).  It holds no policy; that is the smcsock package's. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <linux/netlink.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>

/* Older C libraries and kernel headers know none of these: they are the values
   of linux/socket.h, linux/in.h and linux/smc.h. */
#ifndef AF_SMC
#define AF_SMC 43
#endif
#ifndef SOL_SMC
#define SOL_SMC 286
#endif
#define SMCPROTO_SMC 0
#define SMCPROTO_SMC6 1
#define SMC_LIMIT_HS 1
#define SMCSOCK_IPPROTO_SMC 256 /* an enumerator of netinet/in.h, or absent */

#define NS_PER_S INT64_C(1000000000)
#define NS_PER_MS INT64_C(1000000)

/* How a socket that is asked for presents itself. */
typedef struct {
    int asked_family;
    int asked_proto;
    int smcproto; /* the kernel's */
    bool is_smc;
    PyObject *family;
    PyObject *inet;
    PyObject *proto;
} presentation;

#define MAX_PRESENTATIONS 16

/* What a new socket.socket has to be given, and what smcsock.socket adds. */
enum { IO_REFS, CLOSED, FAMILY, INET, PROTO, IS_TCP, MEMBERS };
static const char *const member_names[MEMBERS] = {"_io_refs", "_closed", "_family",
                                                  "_inet",    "_proto",  "_is_tcp"};

typedef PyObject *(*fastcall_function)(PyObject *, PyObject *const *, Py_ssize_t);

typedef struct {
    PyObject *gaierror;    /* socket.gaierror */
    PyObject *socket_type; /* _socket.socket */
    initproc socket_init;  /* its __init__() */
    PyObject *opening_type;
    PyObject *own_type; /* smcsock.socket, NULL before present() */
    PyObject *members[MEMBERS]; /* its descriptors of member_names */
    descrsetfunc set_member;
    PyObject *str_socket_new;
    PyObject *zero;
    PyObject *stream; /* SOCK_STREAM */
    presentation presentations[MAX_PRESENTATIONS];
    size_t presentations_count;
    atomic_bool opens_directly;
    PyObject *handshake_interrupted; /* the exception, see its documentation */
    PyObject *record_type;
    PyObject *audit;       /* sys.audit: PySys_Audit() is in no limited API before 3.13 */
    PyObject *family;      /* the member of _socket.socket, whatever a subclass says */
    PyObject *str_socket_bind;
    PyObject *str_socket_connect;
    /* The C functions behind sys.audit and two methods of _socket.socket, NULL if
       they are not what they were.  The limited API has no quick way to call a
       method, and every connect() calls these. */
    fastcall_function audit_function;
    PyCFunction fileno_function;
    PyCFunction gettimeout_function;
    PyCFunction accept_function;
    PyCFunction connect_function;
    PyCFunction connect_ex_function;
    descrgetfunc get_family; /* what reads the member */
} module_state;

/* ---- Arguments ---------------------------------------------------------- */

/* The name that a type gives in tp_name, and with it the standard library in its
   messages: qualified for types defined in C outside builtins. */
static PyObject *
type_name(PyObject *obj)
{
    PyTypeObject *type = Py_TYPE(obj);
    PyObject *name = PyType_GetName(type);
    unsigned long flags = PyType_GetFlags(type);
    if (name == NULL ||
        ((flags & Py_TPFLAGS_HEAPTYPE) && !(flags & Py_TPFLAGS_IMMUTABLETYPE))) {
        return name;
    }
    PyObject *module = PyObject_GetAttrString((PyObject *)type, "__module__");
    PyObject *full = NULL;
    if (module != NULL && PyUnicode_CompareWithASCIIString(module, "builtins") == 0) {
        full = Py_NewRef(name);
    }
    else if (module != NULL) {
        full = PyUnicode_FromFormat("%U.%U", module, name);
    }
    Py_XDECREF(module);
    Py_DECREF(name);
    return full;
}

static bool
as_int(PyObject *obj, int *result)
{
    long value = PyLong_AsLong(obj);
    if (value == -1 && PyErr_Occurred()) {
        return false;
    }
    if (value < INT_MIN || value > INT_MAX) {
        PyErr_SetString(PyExc_OverflowError, "Python int too large to convert to C int");
        return false;
    }
    *result = (int)value;
    return true;
}

static PyObject *
call_noargs(PyCFunction function, PyObject *sock, const char *name)
{
    return function != NULL ? function(sock, NULL) : PyObject_CallMethod(sock, name, NULL);
}

/* A method at work on a _socket.socket. */
typedef struct {
    module_state *state;
    PyObject *sock;
    int fd;
    bool was_bound; /* before connect(), which gives a port to a socket that has none */
} call;

/* Gets the socket's descriptor: -1, which system calls answer with EBADF, if it is
   closed.  To be done again whenever other code may have run, a signal handler or
   another thread: the number may be another file's by then. */
static bool
get_fd(call *c)
{
    /* Like the methods of _socket.socket: not by a subclass's own fileno(). */
    PyObject *number = call_noargs(c->state->fileno_function, c->sock, "fileno");
    if (number == NULL) {
        return false;
    }
    bool ok = as_int(number, &c->fd);
    Py_DECREF(number);
    return ok;
}

/* The socket's timeout in nanoseconds; -1 for none. */
static bool
get_timeout(const call *c, int64_t *timeout)
{
    PyObject *seconds = call_noargs(c->state->gettimeout_function, c->sock, "gettimeout");
    if (seconds == NULL) {
        return false;
    }
    bool ok = true;
    if (seconds == Py_None) {
        *timeout = -1;
    }
    else {
        double ns = PyFloat_AsDouble(seconds) * (double)NS_PER_S;
        ok = !PyErr_Occurred();
        /* Rounded up, so that the shortest timeout is not non-blocking mode; and
           cut to 146 years, so that a deadline does not overflow. */
        *timeout = ns < (double)(INT64_MAX / 2) ? (int64_t)(ns + 0.999999) : INT64_MAX / 2;
    }
    Py_DECREF(seconds);
    return ok;
}

static bool
audit(module_state *state, PyObject *event, PyObject *sock, PyObject *address)
{
    PyObject *args[] = {event, sock, address};
    PyObject *result = state->audit_function != NULL
                           ? state->audit_function(NULL, args, 3)
                           : PyObject_CallFunctionObjArgs(state->audit, event, sock, address,
                                                          NULL);
    Py_XDECREF(result);
    return result != NULL;
}

/* The event of a new socket, which has a family of its own to say. */
static bool
audit_new(module_state *state, PyObject *sock, PyObject *family, PyObject *type,
          PyObject *proto)
{
    PyObject *args[] = {state->str_socket_new, sock, family, type, proto};
    PyObject *result = state->audit_function != NULL
                           ? state->audit_function(NULL, args, 5)
                           : PyObject_CallFunctionObjArgs(state->audit, args[0], sock, family,
                                                          type, proto, NULL);
    Py_XDECREF(result);
    return result != NULL;
}

/* Calls a method with the arguments that a function of the vectorcall kind got. */
static PyObject *
call_method(PyObject *self, const char *name, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    PyObject *result = NULL, *keywords = NULL;
    PyObject *method = PyObject_GetAttrString(self, name);
    PyObject *positional = PyTuple_New(nargs);
    if (method == NULL || positional == NULL) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        PyTuple_SetItem(positional, i, Py_NewRef(args[i]));
    }
    if (kwnames != NULL) {
        keywords = PyDict_New();
        for (Py_ssize_t i = 0; keywords != NULL && i < PyTuple_Size(kwnames); i++) {
            if (PyDict_SetItem(keywords, PyTuple_GetItem(kwnames, i), args[nargs + i]) < 0) {
                goto done;
            }
        }
        if (keywords == NULL) {
            goto done;
        }
    }
    result = PyObject_Call(method, positional, keywords);
done:
    Py_XDECREF(method);
    Py_XDECREF(positional);
    Py_XDECREF(keywords);
    return result;
}

/* ---- Addresses ---------------------------------------------------------- */

typedef union {
    struct sockaddr sa;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
} inet_address;

typedef struct {
    PyObject *owner; /* keeps name alive */
    const char *name;
} host_arg;

static bool
is_ascii(const char *text, Py_ssize_t size)
{
    for (Py_ssize_t i = 0; i < size; i++) {
        if ((unsigned char)text[i] > 0x7f) {
            return false;
        }
    }
    return true;
}

static const char *
ascii_host(PyObject *str, Py_ssize_t *size)
{
    const char *name = PyUnicode_AsUTF8AndSize(str, size);
    if (name == NULL) {
        PyErr_Clear(); /* lone surrogates: the idna codec has the last word */
        return NULL;
    }
    return is_ascii(name, *size) ? name : NULL;
}

/* An "O&" converter: str (through the idna codec unless ASCII), bytes or
   bytearray to a C string. */
static int
host_converter(PyObject *obj, void *result)
{
    host_arg *host = result;
    Py_ssize_t size = 0;
    if (obj == NULL) {
        Py_CLEAR(host->owner);
        return 1;
    }
    if (PyUnicode_Check(obj)) {
        /* A subclass goes through the codec, as in the standard library. */
        host->name = PyUnicode_CheckExact(obj) ? ascii_host(obj, &size) : NULL;
        if (host->name != NULL) {
            host->owner = Py_NewRef(obj);
        }
        else {
            host->owner = PyUnicode_AsEncodedString(obj, "idna", NULL);
            if (host->owner == NULL) {
                PyErr_SetString(PyExc_TypeError, "encoding of hostname failed");
                return 0;
            }
        }
    }
    else if (PyBytes_Check(obj)) {
        host->owner = Py_NewRef(obj);
    }
    else if (PyByteArray_Check(obj)) {
        /* A copy: another thread may resize it while the name is resolved. */
        host->owner = PyBytes_FromObject(obj);
        if (host->owner == NULL) {
            return 0;
        }
    }
    else {
        PyObject *type = type_name(obj);
        if (type != NULL) {
            PyErr_Format(PyExc_TypeError, "str, bytes or bytearray expected, not %U", type);
            Py_DECREF(type);
        }
        return 0;
    }
    if (PyBytes_Check(host->owner)) {
        host->name = PyBytes_AsString(host->owner);
        size = PyBytes_Size(host->owner);
    }
    if (strlen(host->name) != (size_t)size) {
        Py_CLEAR(host->owner);
        PyErr_SetString(PyExc_TypeError, "host name must not contain null character");
        return 0;
    }
    return Py_CLEANUP_SUPPORTED;
}

static void
set_gaierror(module_state *state, int error)
{
    if (error == EAI_SYSTEM) {
        PyErr_SetFromErrno(PyExc_OSError);
        return;
    }
    PyObject *args = Py_BuildValue("(is)", error, gai_strerror(error));
    if (args != NULL) {
        PyErr_SetObject(state->gaierror, args);
        Py_DECREF(args);
    }
}

/* getaddrinfo() with the GIL released; NULL with an exception set. */
static struct addrinfo *
resolve(module_state *state, const char *name, const char *service,
        const struct addrinfo *hints)
{
    struct addrinfo *found = NULL;
    int error, saved_errno;
    Py_BEGIN_ALLOW_THREADS
    error = getaddrinfo(name, service, hints, &found);
    saved_errno = errno;
    Py_END_ALLOW_THREADS
    if (error) {
        errno = saved_errno;
        set_gaierror(state, error);
        return NULL;
    }
    return found;
}

static bool
set_numeric_host(const char *name, int family, inet_address *address)
{
    if (family == AF_INET) {
        return inet_pton(AF_INET, name, &address->in.sin_addr) == 1;
    }
    /* An address with a zone is getaddrinfo's: it knows the interfaces. */
    return strchr(name, '%') == NULL &&
           inet_pton(AF_INET6, name, &address->in6.sin6_addr) == 1;
}

/* Fills in the IP address of a host: numeric, a name, "" (any address) or
   "<broadcast>". */
static bool
set_host(module_state *state, const char *name, int family, inet_address *address)
{
    struct addrinfo hints = {.ai_family = family};
    struct addrinfo *found;

    if (strcmp(name, "255.255.255.255") == 0 || strcmp(name, "<broadcast>") == 0) {
        if (family != AF_INET) {
            PyErr_SetString(PyExc_OSError, "address family mismatched");
            return false;
        }
        address->in.sin_addr.s_addr = htonl(INADDR_BROADCAST);
        return true;
    }
    if (set_numeric_host(name, family, address)) {
        return true;
    }
    if (name[0] == '\0') {
        hints.ai_socktype = SOCK_DGRAM; /* any one: each type would be a result */
        hints.ai_flags = AI_PASSIVE;
        found = resolve(state, NULL, "0", &hints);
        if (found != NULL && found->ai_next != NULL) {
            freeaddrinfo(found);
            PyErr_SetString(PyExc_OSError, "wildcard resolved to multiple address");
            return false;
        }
    }
    else {
        found = resolve(state, name, NULL, &hints);
    }
    if (found == NULL) {
        return false;
    }
    memcpy(address, found->ai_addr,
           found->ai_addrlen < sizeof *address ? found->ai_addrlen : sizeof *address);
    freeaddrinfo(found);
    return true;
}

static socklen_t
finish_address(int family, int port, inet_address *address)
{
    if (family == AF_INET) {
        address->in.sin_family = AF_INET;
        address->in.sin_port = htons((uint16_t)port);
        return sizeof address->in;
    }
    address->in6.sin6_family = AF_INET6;
    address->in6.sin6_port = htons((uint16_t)port);
    return sizeof address->in6;
}

/* The address that most programs pass, (str, int) with a numeric host, without
   PyArg_ParseTuple(), which takes four times as long.  0, with no exception set,
   if it is any other. */
static socklen_t
parse_numeric_address(int family, PyObject *arg, inet_address *address)
{
    if (!PyTuple_CheckExact(arg) || PyTuple_Size(arg) != 2) {
        return 0;
    }
    PyObject *host = PyTuple_GetItem(arg, 0);
    PyObject *port = PyTuple_GetItem(arg, 1);
    if (!PyUnicode_CheckExact(host) || !PyLong_CheckExact(port)) {
        return 0;
    }
    Py_ssize_t size;
    int overflow;
    const char *name = PyUnicode_AsUTF8AndSize(host, &size);
    if (name == NULL) {
        PyErr_Clear(); /* lone surrogates: the idna codec has the last word */
        return 0;
    }
    long number = PyLong_AsLongAndOverflow(port, &overflow);
    if (strlen(name) != (size_t)size || overflow || number < 0 || number > 0xffff ||
        !set_numeric_host(name, family, address)) {
        return 0;
    }
    return finish_address(family, (int)number, address);
}

/* A Python address, (host, port) or (host, port[, flowinfo[, scopeid]]), to the
   sockaddr of a family.  The exceptions are those of socketmodule.c's
   getsockaddrarg(), to the letter; caller is the name in them.  Returns the
   length, 0 with an exception set. */
static socklen_t
parse_address(module_state *state, int family, PyObject *arg, const char *caller,
              inet_address *address)
{
    host_arg host = {NULL, NULL};
    unsigned int flowinfo = 0, scope_id = 0;
    int port, parsed;

    memset(address, 0, sizeof *address);
    socklen_t length = parse_numeric_address(family, arg, address);
    if (length != 0) {
        return length;
    }
    if (!PyTuple_Check(arg)) {
        PyObject *type = type_name(arg);
        if (type != NULL) {
            PyErr_Format(PyExc_TypeError, "%s(): %s address must be tuple, not %U", caller,
                         family == AF_INET ? "AF_INET" : "AF_INET6", type);
            Py_DECREF(type);
        }
        return 0;
    }
    if (family == AF_INET) {
        parsed = PyArg_ParseTuple(arg, "O&i;AF_INET address must be a pair (host, port)",
                                  host_converter, &host, &port);
    }
    else {
        parsed = PyArg_ParseTuple(arg,
                                  "O&i|II;AF_INET6 address must be a tuple "
                                  "(host, port[, flowinfo[, scopeid]])",
                                  host_converter, &host, &port, &flowinfo, &scope_id);
    }
    if (!parsed) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Format(PyExc_OverflowError, "%s(): port must be 0-65535.", caller);
        }
        return 0;
    }
    bool resolved = set_host(state, host.name, family, address);
    host_converter(NULL, &host);
    if (!resolved) {
        return 0;
    }
    if (port < 0 || port > 0xffff) {
        PyErr_Format(PyExc_OverflowError, "%s(): port must be 0-65535.", caller);
        return 0;
    }
    if (flowinfo > 0xfffff) {
        PyErr_Format(PyExc_OverflowError, "%s(): flowinfo must be 0-1048575.", caller);
        return 0;
    }
    if (family == AF_INET6) {
        address->in6.sin6_flowinfo = htonl(flowinfo);
        address->in6.sin6_scope_id = scope_id;
    }
    return finish_address(family, port, address);
}

static PyObject *
build_address(const inet_address *address)
{
    char host[INET6_ADDRSTRLEN];
    if (address->sa.sa_family == AF_INET) {
        inet_ntop(AF_INET, &address->in.sin_addr, host, sizeof host);
        return Py_BuildValue("si", host, ntohs(address->in.sin_port));
    }
    if (address->sa.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &address->in6.sin6_addr, host, sizeof host);
        return Py_BuildValue("siII", host, ntohs(address->in6.sin6_port),
                             ntohl(address->in6.sin6_flowinfo), address->in6.sin6_scope_id);
    }
    PyErr_Format(PyExc_OSError, "the kernel gave an address of family %d",
                 address->sa.sa_family);
    return NULL;
}

/* ---- Waiting ------------------------------------------------------------ */

static int64_t
monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

static int64_t
deadline_after(int64_t timeout)
{
    return timeout > 0 ? monotonic_ns() + timeout : 0;
}

/* What poll() takes for the time that is left: milliseconds, rounded up so that
   the deadline has passed when it returns. */
static int
poll_timeout(int64_t left)
{
    int64_t ms = left / NS_PER_MS + (left % NS_PER_MS > 0);
    return ms > INT_MAX ? INT_MAX : (int)ms;
}

/* Waits for events on the socket until a deadline, signal handlers run and their
   time counted.  Returns the events that came, 0 when the deadline has passed, -1
   with an exception set.  The descriptor is as good as new then. */
static int
wait_for(call *c, short events, int64_t deadline)
{
    for (;;) {
        if (!get_fd(c)) {
            return -1;
        }
        if (c->fd < 0) {
            return POLLNVAL;
        }
        struct pollfd pollfd = {.fd = c->fd, .events = events};
        int64_t left = deadline - monotonic_ns();
        int ready, error;
        if (left < 0) {
            left = 0; /* look once at least */
        }
        Py_BEGIN_ALLOW_THREADS
        ready = poll(&pollfd, 1, poll_timeout(left));
        error = errno;
        Py_END_ALLOW_THREADS
        if (ready > 0) {
            return get_fd(c) ? pollfd.revents : -1;
        }
        if (ready < 0 && error != EINTR) {
            errno = error;
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        if (ready < 0 && PyErr_CheckSignals()) {
            return -1;
        }
        /* poll() takes 24 days at the most. */
        if (ready == 0 && monotonic_ns() >= deadline) {
            return 0;
        }
    }
}

/* ---- The calls ------------------------------------------------------------ */

PyDoc_STRVAR(socket_doc,
"socket($module, type, proto, family=AF_SMC, /)\n--\n\n"
"Opens a socket, non-inheritable, and returns its descriptor; raises no audit event.\n\n"
"For an SMC socket, type is SOCK_STREAM, with SOCK_NONBLOCK if wanted, and proto\n"
"SMCPROTO_SMC or SMCPROTO_SMC6.  Raises OSError; EAFNOSUPPORT then means a kernel\n"
"without SMC.");

/* A descriptor; -1 with errno set. */
static int
open_socket(int family, int type, int proto)
{
    int fd, error;
    /* Blocks while the kernel loads the smc module. */
    Py_BEGIN_ALLOW_THREADS
    fd = socket(family, type | SOCK_CLOEXEC, proto);
    error = errno;
    Py_END_ALLOW_THREADS
    errno = error;
    return fd;
}

static PyObject *
smcsock_socket(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    int type, proto, family = AF_SMC;
    if (nargs < 2 || nargs > 3) {
        return PyErr_Format(PyExc_TypeError, "socket() takes 2 or 3 arguments (%zd given)",
                            nargs);
    }
    if (!as_int(args[0], &type) || !as_int(args[1], &proto) ||
        (nargs == 3 && !as_int(args[2], &family))) {
        return NULL;
    }
    int fd = open_socket(family, type, proto);
    return fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

/* A number that is a new SMC socket's descriptor, which is opened when it is asked for.
   _socket.socket.__init__() asks for it once its audit event has passed, which is when
   the standard library calls socket(2), too. */
typedef struct {
    PyObject_HEAD
    int type;
    int proto;
    int fd;
    int error; /* errno of socket(2) */
} opening;

static PyObject *
opening_index(PyObject *self)
{
    opening *o = (opening *)self;
    o->fd = open_socket(AF_SMC, o->type, o->proto);
    if (o->fd < 0) {
        o->error = errno;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLong(o->fd);
}

static void
opening_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot opening_slots[] = {
    {Py_nb_index, (void *)opening_index},
    {Py_tp_dealloc, (void *)opening_dealloc},
    {0, NULL},
};

static PyType_Spec opening_spec = {
    .name = "smcsock._smcsock.Opening",
    .basicsize = sizeof(opening),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = opening_slots,
};

static opening *
new_opening(module_state *state, int type, int proto)
{
    opening *o = PyObject_New(opening, (PyTypeObject *)state->opening_type);
    if (o != NULL) {
        o->type = type;
        o->proto = proto;
        o->fd = -1;
        o->error = 0;
    }
    return o;
}

static bool
begin_on_socket(call *c, module_state *state, PyObject *sock)
{
    c->state = state;
    c->sock = sock;
    if (!PyObject_TypeCheck(sock, (PyTypeObject *)state->socket_type)) {
        PyErr_SetString(PyExc_TypeError, "smcsock's functions need a socket.socket");
        return false;
    }
    return true;
}

/* Starts a method of SocketMethods, which takes one argument or none. */
static bool
begin_call(call *c, PyObject *sock, PyTypeObject *type, const char *method, PyObject *kwnames,
           Py_ssize_t nargs, Py_ssize_t expected)
{
    if (kwnames != NULL && PyTuple_Size(kwnames) > 0) {
        PyErr_Format(PyExc_TypeError, "%s() takes no keyword arguments", method);
        return false;
    }
    if (nargs != expected) {
        PyErr_Format(PyExc_TypeError, "%s() takes %s (%zd given)", method,
                     expected == 0 ? "no arguments" : "exactly one argument", nargs);
        return false;
    }
    return begin_on_socket(c, PyType_GetModuleState(type), sock);
}

/* Starts a function of the module, whose first argument is a socket. */
static bool
begin_function(call *c, PyObject *module, const char *function, PyObject *const *args,
               Py_ssize_t nargs, Py_ssize_t expected)
{
    if (nargs != expected) {
        PyErr_Format(PyExc_TypeError, "%s() takes exactly %zd arguments (%zd given)", function,
                     expected, nargs);
        return false;
    }
    return begin_on_socket(c, PyModule_GetState(module), args[0]);
}

/* The family that _socket.socket has for the socket. */
static bool
family_of(const call *c, int *family)
{
    PyObject *number =
        c->state->get_family(c->state->family, c->sock, (PyObject *)Py_TYPE(c->sock));
    if (number == NULL) {
        return false;
    }
    bool ok = as_int(number, family);
    Py_DECREF(number);
    return ok;
}

/* Parses the address that a method got, with the family that _socket.socket has for
   the socket, raises the audit event, and only then gets the descriptor: resolving a
   name or a hook may take long, and the socket be closed meanwhile. */
static socklen_t
begin_address(call *c, PyObject *arg, const char *method, PyObject *event,
              inet_address *address)
{
    int family;
    if (!family_of(c, &family)) {
        return 0;
    }
    if (family != AF_INET && family != AF_INET6) {
        PyErr_Format(PyExc_OSError, "%s(): bad family", method);
        return 0;
    }
    socklen_t length = parse_address(c->state, family, arg, method, address);
    if (length == 0 || !audit(c->state, event, c->sock, arg) ||
        !get_fd(c)) {
        return 0;
    }
    return length;
}

PyDoc_STRVAR(bind_doc,
"bind($self, address, /)\n--\n\n"
"Binds the socket to a local address; raises as socket.socket.bind().");

static PyObject *
socket_bind(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    call c;
    inet_address address;
    int res, error;
    if (!begin_call(&c, self, type, "bind", kwnames, nargs, 1)) {
        return NULL;
    }
    socklen_t length = begin_address(&c, args[0], "bind", c.state->str_socket_bind, &address);
    if (length == 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    res = bind(c.fd, &address.sa, length);
    error = errno;
    Py_END_ALLOW_THREADS
    if (res < 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(listen_doc,
"listen($self, backlog=128, /)\n--\n\n"
"Lets peers connect; backlog is how many may wait to be accepted.");

static PyObject *
socket_listen(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    call c;
    int backlog = SOMAXCONN < 128 ? SOMAXCONN : 128;
    int res, error;
    if (!begin_call(&c, self, type, "listen", kwnames, nargs, nargs > 0) ||
        (nargs > 0 && !PyArg_Parse(args[0], "i", &backlog)) || !get_fd(&c)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    res = listen(c.fd, backlog < 0 ? 0 : backlog);
    error = errno;
    Py_END_ALLOW_THREADS
    if (res < 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(accept_doc,
"_accept($self, /)\n--\n\n"
"Waits for a connection; returns its descriptor, non-inheritable, and the\n"
"peer's address.  Raises TimeoutError after the socket's timeout.");

static PyObject *
accept_connection(call *c)
{
    int fd, error;
    int64_t timeout;
    inet_address peer = {0};
    if (!get_fd(c) || !get_timeout(c, &timeout)) {
        return NULL;
    }
    const int64_t deadline = deadline_after(timeout);
    for (;;) {
        socklen_t length = sizeof peer;
        Py_BEGIN_ALLOW_THREADS
        fd = accept4(c->fd, &peer.sa, &length, SOCK_CLOEXEC);
        error = errno;
        Py_END_ALLOW_THREADS
        if (fd >= 0) {
            break;
        }
        if (error == EINTR) {
            if (PyErr_CheckSignals() || !get_fd(c)) {
                return NULL;
            }
            continue;
        }
        if (timeout <= 0 || (error != EAGAIN && error != EWOULDBLOCK)) {
            errno = error;
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        /* Only now: poll() never reports an SMC socket that does not listen. */
        int ready = wait_for(c, POLLIN, deadline);
        if (ready == 0) {
            PyErr_SetString(PyExc_TimeoutError, "timed out");
        }
        if (ready <= 0) {
            return NULL;
        }
    }
    PyObject *address = build_address(&peer);
    PyObject *result = address == NULL ? NULL : Py_BuildValue("iN", fd, address);
    if (result == NULL) {
        close(fd);
    }
    return result;
}

static PyObject *
socket_accept(PyObject *self, PyTypeObject *type, PyObject *const *Py_UNUSED(args),
              Py_ssize_t nargs, PyObject *kwnames)
{
    call c;
    return begin_call(&c, self, type, "_accept", kwnames, nargs, 0) ? accept_connection(&c)
                                                                     : NULL;
}

/* ---- connect -------------------------------------------------------------- */

/* How an attempt to connect ended: 0, an errno, or one of these. */
enum { RAISED = -1, TIMED_OUT = -2, HANDSHAKE_INTERRUPTED = -3 };

static int
call_connect(int fd, const inet_address *address, socklen_t length)
{
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = connect(fd, &address->sa, length) < 0 ? errno : 0;
    Py_END_ALLOW_THREADS
    return error;
}

/* The outcome of a connect that ran on its own, once poll() has reported events.

   For a TCP socket that is SO_ERROR.  smc_connect_work() in the kernel hands on
   ECONNREFUSED and a few others only: after any other failure the socket hangs
   up with no error at all, and a further connect() would say ECONNABORTED. */
static int
connect_outcome(int fd, int events)
{
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0) {
        return errno;
    }
    if (error == EISCONN) {
        return 0;
    }
    if (error == 0 && (events & (POLLHUP | POLLERR))) {
        inet_address peer;
        size = sizeof peer;
        if (getpeername(fd, &peer.sa, &size) < 0) {
            return errno == ENOTCONN ? ECONNABORTED : errno;
        }
    }
    return error;
}

static int
finish_connect(call *c, int64_t timeout)
{
    int events = wait_for(c, POLLOUT, deadline_after(timeout));
    if (events < 0) {
        return RAISED;
    }
    return events == 0 ? TIMED_OUT : connect_outcome(c->fd, events);
}

static int
get_int_option(int fd, int level, int option)
{
    int value = -1;
    socklen_t size = sizeof value;
    return getsockopt(fd, level, option, &value, &size) < 0 ? -1 : value;
}

/* The state of the TCP connection underneath: TCP_CLOSE when there is none. */
static int
tcp_state(int fd)
{
    unsigned char state = TCP_CLOSE; /* the first member of struct tcp_info */
    socklen_t size = sizeof state;
    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &size);
    return state;
}

/* Whether the TCP connection is there, but the CLC handshake on it not done: the
   SMC socket is in its initial state, where it has no peer and is ready for nothing
   (it has the error EINTR if a signal ended the handshake). */
static bool
lacks_handshake(int fd)
{
    inet_address peer;
    socklen_t size = sizeof peer;
    struct pollfd pollfd = {.fd = fd, .events = POLLIN | POLLOUT};
    return getpeername(fd, &peer.sa, &size) < 0 && errno == ENOTCONN &&
           poll(&pollfd, 1, 0) >= 0 && !(pollfd.revents & (POLLIN | POLLOUT | POLLHUP));
}

/* Whether connect() may be called: 0, or how it ends without being called.

   smc_connect() takes the peer for one that does SMC each time it is called, and
   only the SYN-ACK of a TCP peer puts that right.  Called between the SYN-ACK and
   the decision how to go on, it sends a TCP peer the CLC handshake as data.  So
   not while the kernel is at it on its own (non-blocking), and not when a signal
   has left a TCP connection with no handshake. */
static int
check_earlier_connect(int fd)
{
    int state = tcp_state(fd);
    if (state == TCP_CLOSE || state == TCP_LISTEN ||
        get_int_option(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP) {
        return 0;
    }
    if (state != TCP_SYN_SENT && !lacks_handshake(fd)) {
        return 0;
    }
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_NONBLOCK)) {
        return EALREADY;
    }
    return state == TCP_SYN_SENT ? 0 : HANDSHAKE_INTERRUPTED;
}

/* Connects within the socket's timeout.

   An interrupted TCP connect goes on by itself, so the standard library waits
   for it with poll().  An interrupted SMC connect does not: the CLC handshake
   that follows the TCP connection is done inside the system call, and a poll()
   would wait for ever.  Calling connect() again resumes it, for a TCP socket
   too.  A signal that arrives during the handshake itself ends it for good. */
static int
connect_socket(call *c, const inet_address *address, socklen_t length)
{
    int64_t timeout;
    int error;
    for (;;) {
        error = check_earlier_connect(c->fd);
        if (error == 0) {
            error = call_connect(c->fd, address, length);
        }
        if (error != EINTR) {
            break;
        }
        if (PyErr_CheckSignals() || !get_fd(c)) {
            return RAISED;
        }
    }
    if (error != EINPROGRESS) {
        return error;
    }
    if (!get_timeout(c, &timeout)) {
        return RAISED;
    }
    return timeout > 0 ? finish_connect(c, timeout) : error;
}

static bool
is_bound(int fd)
{
    inet_address local = {0};
    socklen_t size = sizeof local;
    /* The port is at the same place in either. */
    return getsockname(fd, &local.sa, &size) == 0 && local.in.sin_port != 0;
}

static int
connect_to(call *c, PyObject *arg, const char *method)
{
    inet_address address;
    socklen_t length = begin_address(c, arg, method, c->state->str_socket_connect, &address);
    if (length == 0) {
        return RAISED;
    }
    c->was_bound = is_bound(c->fd);
    return connect_socket(c, &address, length);
}

static void
raise_interrupted(const call *c)
{
    PyObject *error = PyObject_CallFunction(
        c->state->handshake_interrupted, "is", EINTR,
        "a signal ended the SMC handshake (CLC), which the kernel cannot resume: "
        "connect a new socket; with a timeout set, signals do no harm");
    if (error != NULL && PyObject_SetAttrString(error, "was_bound",
                                                c->was_bound ? Py_True : Py_False) == 0) {
        PyErr_SetObject(c->state->handshake_interrupted, error);
    }
    Py_XDECREF(error);
}

/* connect(), once it is known of whom. */
static PyObject *
do_connect(call *c, PyObject *address)
{
    int outcome = connect_to(c, address, "connect");
    switch (outcome) {
    case 0:
        Py_RETURN_NONE;
    case RAISED:
        return NULL;
    case TIMED_OUT:
        PyErr_SetString(PyExc_TimeoutError, "timed out");
        return NULL;
    case HANDSHAKE_INTERRUPTED:
        raise_interrupted(c);
        return NULL;
    default:
        errno = outcome;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
}

PyDoc_STRVAR(connect_doc,
"connect($self, address, /)\n--\n\n"
"Connects the socket to an address; raises as socket.socket.connect().\n\n"
"Returns once the CLC handshake is over.  Without a timeout, it raises\n"
"HandshakeInterruptedError when a signal arrives during that handshake and its\n"
"handler returns.");

static PyObject *
socket_connect(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    call c;
    return begin_call(&c, self, type, "connect", kwnames, nargs, 1) ? do_connect(&c, args[0])
                                                                   : NULL;
}

/* connect_ex(), once it is known of whom. */
static PyObject *
do_connect_ex(call *c, PyObject *address)
{
    int outcome = connect_to(c, address, "connect_ex");
    switch (outcome) {
    case RAISED:
        return NULL;
    case TIMED_OUT:
        return PyLong_FromLong(EWOULDBLOCK);
    case HANDSHAKE_INTERRUPTED:
        return PyLong_FromLong(EINTR);
    default:
        return PyLong_FromLong(outcome);
    }
}

PyDoc_STRVAR(connect_ex_doc,
"connect_ex($self, address, /)\n--\n\n"
"As connect(), but returns the errno of a system call that fails, EWOULDBLOCK\n"
"after the timeout, and 0 when connected.");

static PyObject *
socket_connect_ex(PyObject *self, PyTypeObject *type, PyObject *const *args,
                  Py_ssize_t nargs, PyObject *kwnames)
{
    call c;
    return begin_call(&c, self, type, "connect_ex", kwnames, nargs, 1)
               ? do_connect_ex(&c, args[0])
               : NULL;
}

/* ---- sock_diag ------------------------------------------------------------ */

/* linux/smc_diag.h, which the headers of older distributions lack. */
struct smc_diag_req {
    uint8_t diag_family;
    uint8_t pad[2];
    uint8_t diag_ext;
    struct inet_diag_sockid id;
};

struct smc_diag_msg {
    uint8_t diag_family;
    uint8_t diag_state;
    uint8_t diag_mode;
    uint8_t diag_shutdown;
    struct inet_diag_sockid id;
    uint32_t diag_uid;
    __aligned_u64 diag_inode;
};

#define SMC_DIAG_MODE_SMCR 0

/* Its attributes, and what a kernel that knows them gives at least.  CONNINFO, LGRINFO
   and DMBINFO have to be asked for. */
enum { CONNINFO = 1, LGRINFO, SHUTDOWN, DMBINFO, FALLBACK, ATTRIBUTES };
#define SMC_DIAG_EXTENSIONS \
    ((1u << (CONNINFO - 1)) | (1u << (LGRINFO - 1)) | (1u << (DMBINFO - 1)))

static const size_t attribute_sizes[ATTRIBUTES] = {
    [CONNINFO] = 76, [LGRINFO] = 147, [SHUTDOWN] = 1, [DMBINFO] = 40, [FALLBACK] = 8,
};

/* The kernel fills at most this much of a dump at a time (smc_diag.c). */
#define DIAG_BUFFER_SIZE 65536

static int
open_sock_diag(void)
{
    struct {
        struct nlmsghdr header;
        struct smc_diag_req request;
    } message = {
        .header = {.nlmsg_len = sizeof message,
                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .request = {.diag_family = AF_SMC, .diag_ext = SMC_DIAG_EXTENSIONS},
    };
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (fd < 0) {
        return -1;
    }
    if (send(fd, &message, sizeof message, 0) < 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

/* A socket that is looked for. */
typedef struct {
    uint64_t inode;
    bool is_found;
} wanted_socket;

/* A question to sock_diag and the records that answer it, each a netlink message.
   Used without the GIL, hence malloc(). */
typedef struct {
    wanted_socket *wanted; /* in the order of their inodes; NULL for all of a datagram */
    size_t count;
    size_t missing;
    unsigned parts; /* datagrams that the last dump came in */
    char *records;
    size_t size;
    size_t capacity;
} diag_query;

static int
compare_inodes(const void *left, const void *right)
{
    uint64_t a = ((const wanted_socket *)left)->inode;
    uint64_t b = ((const wanted_socket *)right)->inode;
    return (a > b) - (a < b);
}

/* Whether a record is asked for; of a socket that is listed twice one is. */
static bool
takes_record(diag_query *query, const struct nlmsghdr *header)
{
    wanted_socket key, *wanted;
    if (query->wanted == NULL) {
        return true;
    }
    /* Netlink aligns to 4 bytes, and the number takes 8. */
    memcpy(&key.inode,
           (const char *)NLMSG_DATA(header) + offsetof(struct smc_diag_msg, diag_inode),
           sizeof key.inode);
    wanted = bsearch(&key, query->wanted, query->count, sizeof key, compare_inodes);
    if (wanted == NULL || wanted->is_found) {
        return false;
    }
    wanted->is_found = true;
    query->missing--;
    return true;
}

/* Returns 0 or ENOMEM. */
static int
keep_record(diag_query *query, const struct nlmsghdr *header)
{
    size_t length = NLMSG_ALIGN(header->nlmsg_len);
    if (query->capacity - query->size < length) {
        size_t capacity = query->capacity * 2 + length;
        char *records = realloc(query->records, capacity);
        if (records == NULL) {
            return ENOMEM;
        }
        query->records = records;
        query->capacity = capacity;
    }
    memset(query->records + query->size + length - NLMSG_ALIGNTO, 0, NLMSG_ALIGNTO);
    memcpy(query->records + query->size, header, header->nlmsg_len);
    query->size += length;
    return 0;
}

/* The errno that ends a dump, 0 if all is well. */
static int
message_error(const struct nlmsghdr *header)
{
    int code = 0;
    if (header->nlmsg_len >= NLMSG_LENGTH(sizeof code)) {
        memcpy(&code, NLMSG_DATA(header), sizeof code);
    }
    if (code < 0) {
        return -code;
    }
    return header->nlmsg_type == NLMSG_ERROR ? EPROTO : 0;
}

/* The message after another one in a buffer, NULL if that was the last. */
static struct nlmsghdr *
next_message(struct nlmsghdr *header, size_t *left)
{
    size_t length = NLMSG_ALIGN(header->nlmsg_len);
    if (*left <= length) {
        return NULL;
    }
    *left -= length;
    return (struct nlmsghdr *)(void *)((char *)header + length);
}

/* Looks through one datagram of a dump; true when it was the last to look at. */
static bool
scan_datagram(diag_query *query, char *buffer, size_t size, int *error)
{
    struct nlmsghdr *header = (struct nlmsghdr *)(void *)buffer;
    for (; header != NULL && NLMSG_OK(header, size); header = next_message(header, &size)) {
        if (header->nlmsg_type == NLMSG_DONE || header->nlmsg_type == NLMSG_ERROR) {
            *error = message_error(header);
            return true;
        }
        if (header->nlmsg_type == SOCK_DIAG_BY_FAMILY &&
            header->nlmsg_len >= NLMSG_LENGTH(sizeof(struct smc_diag_msg)) &&
            takes_record(query, header)) {
            *error = keep_record(query, header);
            if (*error != 0 || (query->wanted != NULL && query->missing == 0)) {
                return true;
            }
        }
    }
    return false;
}

/* Asks sock_diag for all SMC sockets, the only question that smc_diag answers, and
   keeps what the query wants.  Returns 0 or an errno. */
static int
dump_sockets(diag_query *query, char *buffer)
{
    int error = 0;
    bool is_done = false;
    int fd = open_sock_diag();
    if (fd < 0) {
        return errno;
    }
    for (query->parts = 0; !is_done; query->parts++) {
        ssize_t size;
        do {
            /* The kernel answers at once: nothing waits on a signal. */
            size = recv(fd, buffer, DIAG_BUFFER_SIZE, MSG_TRUNC);
        } while (size < 0 && errno == EINTR);
        if (size <= 0 || size > DIAG_BUFFER_SIZE) {
            error = size < 0 ? errno : size > 0 ? EMSGSIZE : EPROTO;
            break;
        }
        is_done = scan_datagram(query, buffer, (size_t)size, &error);
    }
    close(fd);
    return error;
}

/* Asks until nothing is missing, but not too often: a dump in several parts counts its
   way along the list of sockets, so that one is skipped when another goes away in
   between.  Returns 0 or an errno. */
static int
run_query(diag_query *query, int attempts)
{
    int error;
    char *buffer = malloc(DIAG_BUFFER_SIZE);
    if (buffer == NULL) {
        return ENOMEM;
    }
    do {
        error = dump_sockets(query, buffer);
    } while (error == 0 && query->missing > 0 && query->parts > 1 && --attempts > 0);
    free(buffer);
    return error;
}

/* The numbers of a Python iterable, sorted and each of them once, as what a query
   wants. */
static bool
parse_inodes(PyObject *arg, diag_query *query)
{
    PyObject *list = PySequence_List(arg);
    if (list == NULL) {
        return false;
    }
    size_t length = (size_t)PyList_Size(list);
    wanted_socket *wanted = calloc(length + 1, sizeof *wanted);
    if (wanted == NULL) {
        Py_DECREF(list);
        PyErr_NoMemory();
        return false;
    }
    query->wanted = wanted;
    for (size_t i = 0; i < length; i++) {
        wanted[i].inode = PyLong_AsUnsignedLongLong(PyList_GetItem(list, (Py_ssize_t)i));
        if (wanted[i].inode == (uint64_t)-1 && PyErr_Occurred()) {
            Py_DECREF(list);
            return false;
        }
    }
    Py_DECREF(list);
    qsort(wanted, length, sizeof *wanted, compare_inodes);
    for (size_t i = 0; i < length; i++) {
        if (query->count == 0 || wanted[query->count - 1].inode != wanted[i].inode) {
            wanted[query->count++] = wanted[i];
        }
    }
    query->missing = query->count;
    return true;
}

/* ---- A record as a Python object */

enum { MODE, REASON, PEER_REASON, LOCAL, PEER, SOCKET_FAMILY, STATE, SHUT_DOWN, INTERFACE,
       UID, INODE, COOKIE, CONNECTION, LINK_GROUP, DMB, RECORD_FIELDS };

static PyStructSequence_Field record_fields[] = {
    {"mode", "SMC_DIAG_MODE_*; None while that is undecided"},
    {"reason", "of a fallback, 0 for none"},
    {"peer_reason", "the peer's diagnosis, 0 for none"},
    {"local", "address, None if it has no port"},
    {"peer", "address, None if it has no port"},
    {"family", "that the socket was opened with"},
    {"state", "enum smc_state"},
    {"shutdown", "bit 0 for receiving, bit 1 for sending"},
    {"interface", "index of the interface it is bound to"},
    {"uid", "of its owner"},
    {"inode", "of the socket"},
    {"cookie", "of the socket"},
    {"connection", "struct smc_diag_conninfo as bytes, or None"},
    {"link_group", "struct smc_diag_lgrinfo as bytes, or None"},
    {"dmb", "struct smcd_diag_dmbinfo as bytes, or None"},
    {NULL, NULL},
};

static PyStructSequence_Desc record_desc = {
    .name = "smcsock._smcsock.Record",
    .doc = "What the kernel's smc_diag tells of a socket (linux/smc_diag.h).",
    .fields = record_fields,
    .n_in_sequence = RECORD_FIELDS,
};

/* A socket address as Python has it; None without a port, which no SMC socket has that is
   bound or connected. */
static PyObject *
build_host_port(int family, const void *host, uint16_t port)
{
    char text[INET6_ADDRSTRLEN];
    if (port == 0) {
        Py_RETURN_NONE;
    }
    if (inet_ntop(family, host, text, sizeof text) == NULL) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return family == AF_INET6 ? Py_BuildValue("siii", text, ntohs(port), 0, 0)
                              : Py_BuildValue("si", text, ntohs(port));
}

/* The IP family of the addresses.  A socket of AF_SMC does not say it: its IPv4 addresses
   take the first of four words, and the kernel clears the others. */
static int
inet_of_record(const struct smc_diag_msg *record)
{
    static const uint32_t none[3];
    if (record->diag_family != AF_SMC) {
        return record->diag_family == AF_INET6 ? AF_INET6 : AF_INET;
    }
    return memcmp(record->id.idiag_src + 1, none, sizeof none) == 0 &&
                   memcmp(record->id.idiag_dst + 1, none, sizeof none) == 0
               ? AF_INET
               : AF_INET6;
}

/* What the attributes of a record say: the last of each kind, none that is cut off. */
typedef struct {
    const char *payload[ATTRIBUTES]; /* NULL for none */
    size_t size[ATTRIBUTES];
} record_attributes;

static void
find_attributes(const char *at, size_t left, record_attributes *found)
{
    struct nlattr header;
    while (left >= sizeof header) {
        memcpy(&header, at, sizeof header);
        if (header.nla_len < sizeof header) {
            return;
        }
        size_t length = header.nla_len < left ? header.nla_len : left;
        if (header.nla_type < ATTRIBUTES &&
            length - sizeof header >= attribute_sizes[header.nla_type]) {
            found->payload[header.nla_type] = at + sizeof header;
            found->size[header.nla_type] = length - sizeof header;
        }
        length = (length + NLA_ALIGNTO - 1) & ~(size_t)(NLA_ALIGNTO - 1);
        if (length >= left) {
            return;
        }
        at += length;
        left -= length;
    }
}

/* The mode of SMC-R is also what everything has that is undecided; but a socket without a
   connection to a link group has no CONNINFO. */
static PyObject *
build_mode(const struct smc_diag_msg *record, const record_attributes *found)
{
    if (record->diag_mode == SMC_DIAG_MODE_SMCR && found->payload[CONNINFO] == NULL) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLong(record->diag_mode);
}

static PyObject *
build_attribute(const record_attributes *found, int kind)
{
    if (found->payload[kind] == NULL) {
        Py_RETURN_NONE;
    }
    return PyBytes_FromStringAndSize(found->payload[kind], (Py_ssize_t)found->size[kind]);
}

/* A message of at least a struct smc_diag_msg; ``inet`` is the IP family of the addresses,
   AF_UNSPEC if only the record can tell. */
static PyObject *
build_record(PyObject *type, const struct nlmsghdr *header, int inet)
{
    struct smc_diag_msg record;
    record_attributes found = {0};
    uint32_t reasons[2] = {0, 0};
    const char *data = NLMSG_DATA(header);
    PyObject *result = PyStructSequence_New((PyTypeObject *)type);
    if (result == NULL) {
        return NULL;
    }
    memcpy(&record, data, sizeof record);
    find_attributes(data + sizeof record,
                    header->nlmsg_len - NLMSG_LENGTH(sizeof record), &found);
    if (found.payload[FALLBACK] != NULL) {
        memcpy(reasons, found.payload[FALLBACK], sizeof reasons);
    }
    if (found.payload[SHUTDOWN] != NULL) {
        record.diag_shutdown = (uint8_t)found.payload[SHUTDOWN][0];
    }
    if (inet == AF_UNSPEC) {
        inet = inet_of_record(&record);
    }
    PyObject *values[RECORD_FIELDS] = {
        [MODE] = build_mode(&record, &found),
        [REASON] = PyLong_FromUnsignedLong(reasons[0]),
        [PEER_REASON] = PyLong_FromUnsignedLong(reasons[1]),
        [LOCAL] = build_host_port(inet, record.id.idiag_src, record.id.idiag_sport),
        [PEER] = build_host_port(inet, record.id.idiag_dst, record.id.idiag_dport),
        [SOCKET_FAMILY] = PyLong_FromLong(record.diag_family),
        [STATE] = PyLong_FromLong(record.diag_state),
        [SHUT_DOWN] = PyLong_FromLong(record.diag_shutdown),
        [INTERFACE] = PyLong_FromUnsignedLong(record.id.idiag_if),
        [UID] = PyLong_FromUnsignedLong(record.diag_uid),
        [INODE] = PyLong_FromUnsignedLongLong(record.diag_inode),
        [COOKIE] = PyLong_FromUnsignedLongLong((uint64_t)record.id.idiag_cookie[1] << 32 |
                                               record.id.idiag_cookie[0]),
        [CONNECTION] = build_attribute(&found, CONNINFO),
        [LINK_GROUP] = build_attribute(&found, LGRINFO),
        [DMB] = build_attribute(&found, DMBINFO),
    };
    bool ok = true;
    for (Py_ssize_t i = 0; i < RECORD_FIELDS; i++) {
        ok = ok && values[i] != NULL;
        PyStructSequence_SetItem(result, i, values[i]);
    }
    if (!ok) {
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *
build_records(PyObject *type, diag_query *query)
{
    PyObject *records = PyList_New(0);
    size_t left = query->size;
    struct nlmsghdr *header = (struct nlmsghdr *)(void *)query->records;
    for (; records != NULL && left > 0 && header != NULL; header = next_message(header, &left)) {
        PyObject *record = build_record(type, header, AF_UNSPEC);
        if (record == NULL || PyList_Append(records, record) < 0) {
            Py_CLEAR(records);
        }
        Py_XDECREF(record);
    }
    return records;
}

/* The records that answer a question, or the OSError of an error number; frees what it holds. */
static PyObject *
end_query(PyObject *type, diag_query *query, int error)
{
    PyObject *records = NULL;
    if (error != 0) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    else {
        records = build_records(type, query);
    }
    free(query->wanted);
    free(query->records);
    return records;
}

PyDoc_STRVAR(records_doc,
"records($module, inodes, /)\n--\n\n"
"The kernel's sock_diag records of the SMC sockets with these inodes, an iterable of\n"
"int; those that the kernel does not list have none.\n\n"
"Raises OSError; ENOENT means that the kernel has no smc_diag.");

static PyObject *
smcsock_records(PyObject *module, PyObject *inodes)
{
    module_state *state = PyModule_GetState(module);
    diag_query query = {0};
    int error = 0;
    if (!parse_inodes(inodes, &query)) {
        free(query.wanted);
        return NULL;
    }
    if (query.count > 0) {
        Py_BEGIN_ALLOW_THREADS
        error = run_query(&query, 3);
        Py_END_ALLOW_THREADS
    }
    return end_query(state->record_type, &query, error);
}

PyDoc_STRVAR(parse_doc,
"parse($module, datagram, /)\n--\n\n"
"The records of a datagram that sock_diag answers with, bytes, and whether it is the\n"
"last one.  Raises the OSError that it has in their place.");

static PyObject *
smcsock_parse(PyObject *module, PyObject *datagram)
{
    module_state *state = PyModule_GetState(module);
    diag_query query = {0};
    char *buffer;
    Py_ssize_t size;
    int error = 0;
    if (PyBytes_AsStringAndSize(datagram, &buffer, &size) < 0) {
        return NULL;
    }
    bool is_last = scan_datagram(&query, buffer, (size_t)size, &error);
    PyObject *records = end_query(state->record_type, &query, error);
    return records == NULL ? NULL : Py_BuildValue("NN", records, PyBool_FromLong(is_last));
}

PyDoc_STRVAR(diag_doc,
"_diag($self, /)\n--\n\n"
"The kernel's sock_diag record of the socket; None if it lists none with the\n"
"descriptor's inode.");

static PyObject *
socket_diag(PyObject *self, PyTypeObject *type, PyObject *const *Py_UNUSED(args),
            Py_ssize_t nargs, PyObject *kwnames)
{
    call c;
    struct stat status;
    int error, family;
    if (!begin_call(&c, self, type, "_diag", kwnames, nargs, 0) || !family_of(&c, &family) ||
        !get_fd(&c)) {
        return NULL;
    }
    if (fstat(c.fd, &status) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    wanted_socket wanted = {.inode = status.st_ino};
    diag_query query = {.wanted = &wanted, .count = 1, .missing = 1};
    Py_BEGIN_ALLOW_THREADS
    error = run_query(&query, 8); /* it is there: the descriptor is open */
    Py_END_ALLOW_THREADS
    PyObject *record = NULL;
    if (error != 0) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    else if (query.size == 0) {
        record = Py_NewRef(Py_None);
    }
    else {
        record = build_record(c.state->record_type, (struct nlmsghdr *)(void *)query.records,
                              family);
    }
    free(query.records);
    return record;
}

/* ---- Sockets of other classes -------------------------------------------- */

/* Starts a function that is the method of _socket.socket for all but AF_INET and AF_INET6. */
static bool
begin_for_inet(call *c, PyObject *module, const char *function, PyObject *const *args,
               Py_ssize_t nargs, Py_ssize_t expected, bool *is_inet)
{
    int family;
    if (!begin_function(c, module, function, args, nargs, expected) || !family_of(c, &family)) {
        return false;
    }
    *is_inet = family == AF_INET || family == AF_INET6;
    return true;
}

static PyObject *
call_standard(const call *c, PyCFunction function, const char *name, PyObject *arg)
{
    return function != NULL ? function(c->sock, arg)
                            : PyObject_CallMethod(c->state->socket_type, name,
                                                  arg == NULL ? "O" : "OO", c->sock, arg);
}

PyDoc_STRVAR(accept_function_doc,
"accept($module, sock, /)\n--\n\n"
"As SocketMethods._accept(), for a socket.socket of AF_INET or AF_INET6; else as\n"
"_socket.socket._accept().");

static PyObject *
smcsock_accept(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    call c;
    bool is_inet;
    if (!begin_for_inet(&c, module, "accept", args, nargs, 1, &is_inet)) {
        return NULL;
    }
    return is_inet ? accept_connection(&c)
                   : call_standard(&c, c.state->accept_function, "_accept", NULL);
}

PyDoc_STRVAR(connect_function_doc,
"connect($module, sock, address, /)\n--\n\n"
"As SocketMethods.connect(), for a socket.socket of AF_INET or AF_INET6; else as\n"
"_socket.socket.connect().");

static PyObject *
smcsock_connect(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    call c;
    bool is_inet;
    if (!begin_for_inet(&c, module, "connect", args, nargs, 2, &is_inet)) {
        return NULL;
    }
    return is_inet ? do_connect(&c, args[1])
                   : call_standard(&c, c.state->connect_function, "connect", args[1]);
}

PyDoc_STRVAR(connect_ex_function_doc,
"connect_ex($module, sock, address, /)\n--\n\n"
"As SocketMethods.connect_ex(), for a socket.socket of AF_INET or AF_INET6; else as\n"
"_socket.socket.connect_ex().");

static PyObject *
smcsock_connect_ex(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    call c;
    bool is_inet;
    if (!begin_for_inet(&c, module, "connect_ex", args, nargs, 2, &is_inet)) {
        return NULL;
    }
    return is_inet ? do_connect_ex(&c, args[1])
                   : call_standard(&c, c.state->connect_ex_function, "connect_ex", args[1]);
}

PyDoc_STRVAR(opening_doc,
"opening($module, type, proto, /)\n--\n\n"
"A number for _socket.socket() to take as a descriptor: that of a new SMC socket,\n"
"which is opened when the number is asked for, once its audit event has passed.");

static PyObject *
smcsock_opening(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    module_state *state = PyModule_GetState(module);
    int type, proto;
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError, "opening() takes exactly 2 arguments (%zd given)",
                            nargs);
    }
    if (!as_int(args[0], &type) || !as_int(args[1], &proto)) {
        return NULL;
    }
    return (PyObject *)new_opening(state, type, proto);
}

PyDoc_STRVAR(inode_doc,
"inode($module, sock, /)\n--\n\n"
"The inode of the file behind a socket.socket; 0 if it is closed.");

static PyObject *
smcsock_inode(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    call c;
    struct stat status;
    if (!begin_function(&c, module, "inode", args, nargs, 1) || !get_fd(&c)) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(fstat(c.fd, &status) < 0 ? 0 : status.st_ino);
}

PyDoc_STRVAR(identify_doc,
"identify($module, fd, /)\n--\n\n"
"What a descriptor is: its inode, and SO_DOMAIN, SO_TYPE and SO_PROTOCOL, -1 for\n"
"what is no socket.  Raises OSError.");

static PyObject *
smcsock_identify(PyObject *Py_UNUSED(module), PyObject *arg)
{
    struct stat status;
    int fd;
    if (!as_int(arg, &fd)) {
        return NULL;
    }
    if (fstat(fd, &status) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_BuildValue("Kiii", (unsigned long long)status.st_ino,
                         get_int_option(fd, SOL_SOCKET, SO_DOMAIN),
                         get_int_option(fd, SOL_SOCKET, SO_TYPE),
                         get_int_option(fd, SOL_SOCKET, SO_PROTOCOL));
}

PyDoc_STRVAR(replace_doc,
"replace($module, sock, fd, /)\n--\n\n"
"Puts another file, that of fd, in the place of the one behind a socket.socket,\n"
"which keeps its descriptor, whether that is inheritable, and its blocking mode.");

static PyObject *
smcsock_replace(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    call c;
    int fd;
    if (!begin_function(&c, module, "replace", args, nargs, 2) || !as_int(args[1], &fd) ||
        !get_fd(&c)) {
        return NULL;
    }
    /* The GIL is kept: another thread that closes the socket has done so before, and
       the number is -1, or will do so afterwards.  Without one (free-threaded), it is
       for the program not to close a socket that it connects or lets listen. */
    int inherit = fcntl(c.fd, F_GETFD);
    int status = fcntl(c.fd, F_GETFL);
    if (inherit < 0 || status < 0 || fcntl(fd, F_SETFL, status) < 0 ||
        dup3(fd, c.fd, inherit & FD_CLOEXEC ? O_CLOEXEC : 0) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

/* ---- SocketMethods --------------------------------------------------------- */

#define METHOD(name, function, doc)                                                   \
    {                                                                                 \
        name, (PyCFunction)(void (*)(void))function,                                  \
            METH_METHOD | METH_FASTCALL | METH_KEYWORDS, doc                          \
    }

/* Closes the descriptor of a socket that came to nothing; the exception stays. */
static void
abandon(module_state *state, PyObject *sock, int fd)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *detached = PyObject_CallMethod(state->socket_type, "detach", "O", sock);
    if (detached == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(detached);
    close(fd);
    PyErr_Restore(type, value, traceback);
}

static bool
set_member(const module_state *state, PyObject *sock, int member, PyObject *value)
{
    return state->set_member(state->members[member], sock, value) == 0;
}

enum { OTHERWISE, OPENED, FAILED };

/* What socket.__init__() does, for a new SMC socket of the kernel.  OTHERWISE, with no
   exception set, if the kernel has no SMC or does not allow it now. */
static int
open_presented(module_state *state, PyObject *self, PyObject *type, int type_number,
               const presentation *p)
{
    if (p->is_smc && !audit_new(state, self, p->family, type, p->proto)) {
        return FAILED;
    }
    opening *o = new_opening(state, type_number, p->smcproto);
    if (o == NULL) {
        return FAILED;
    }
    PyObject *args = PyTuple_Pack(4, p->inet, type, p->proto, (PyObject *)o);
    bool ok = args != NULL && set_member(state, self, FAMILY, p->family) &&
              set_member(state, self, INET, p->inet) &&
              set_member(state, self, PROTO, p->proto) &&
              set_member(state, self, IS_TCP, Py_False) &&
              state->socket_init(self, args, NULL) == 0 &&
              set_member(state, self, IO_REFS, state->zero) &&
              set_member(state, self, CLOSED, Py_False);
    Py_XDECREF(args);
    if (!ok && o->fd >= 0) {
        abandon(state, self, o->fd);
    }
    int error = o->error;
    Py_DECREF(o);
    if (error == EAFNOSUPPORT || error == EACCES || error == EPERM) {
        PyErr_Clear();
        return OTHERWISE;
    }
    return ok ? OPENED : FAILED;
}

/* The presentation for what __init__() got, NULL if it has to be looked at more closely. */
static const presentation *
find_presentation(const module_state *state, PyObject *const *args, Py_ssize_t nargs,
                  int asked[3])
{
    for (Py_ssize_t i = 0; i < nargs; i++) {
        int overflow = 0;
        if (!PyLong_Check(args[i])) {
            return NULL;
        }
        long value = PyLong_AsLongAndOverflow(args[i], &overflow);
        if (overflow || value < -1 || value > INT_MAX) {
            return NULL;
        }
        asked[i] = (int)value;
    }
    for (size_t i = 0; i < state->presentations_count; i++) {
        const presentation *p = &state->presentations[i];
        if (p->asked_family == asked[0] && p->asked_proto == asked[2]) {
            return p;
        }
    }
    return NULL;
}

PyDoc_STRVAR(init_doc,
"__init__($self, /, family=-1, type=-1, proto=-1, fileno=None, *, fallback=None)\n--\n\n"
"Opens a socket or adopts a descriptor; see help(type(self)).");

static PyObject *
socket_initialize(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    module_state *state = PyType_GetModuleState(type);
    const presentation *p = NULL;
    int asked[3] = {-1, -1, -1};
    if (kwnames == NULL && nargs <= 3 && atomic_load(&state->opens_directly) &&
        PyObject_TypeCheck(self, (PyTypeObject *)state->own_type)) {
        p = find_presentation(state, args, nargs, asked);
    }
    if (p != NULL) {
        bool is_default = asked[1] == -1;
        switch (open_presented(state, self, is_default ? state->stream : args[1],
                               is_default ? SOCK_STREAM : asked[1], p)) {
        case OPENED:
            Py_RETURN_NONE;
        case FAILED:
            return NULL;
        default:
            break;
        }
    }
    return call_method(self, "_init", args, nargs, kwnames);
}

PyDoc_STRVAR(present_doc,
"present($module, type, table, /)\n--\n\n"
"Sets the class whose sockets __init__() may open, and how they can present themselves:\n"
"of each presentation the family and proto that are asked for; family, inet and proto of\n"
"the socket; and the kernel's proto.  To be called once.");

static bool
find_members(module_state *state, PyObject *type)
{
    for (int i = 0; i < MEMBERS; i++) {
        state->members[i] = PyObject_GetAttrString(type, member_names[i]);
        if (state->members[i] == NULL) {
            return false;
        }
        descrsetfunc set =
            (descrsetfunc)PyType_GetSlot(Py_TYPE(state->members[i]), Py_tp_descr_set);
        if (set == NULL || (i > 0 && set != state->set_member)) {
            PyErr_SetString(PyExc_TypeError, "present() needs a class with __slots__");
            return false;
        }
        state->set_member = set;
    }
    state->own_type = Py_NewRef(type);
    return true;
}

static PyObject *
smcsock_present(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    module_state *state = PyModule_GetState(module);
    if (nargs != 2 || state->own_type != NULL) {
        PyErr_SetString(PyExc_TypeError, "present() takes two arguments, once");
        return NULL;
    }
    PyObject *table = args[1];
    Py_ssize_t count = PyTuple_Size(table);
    if (count < 0 || !find_members(state, args[0])) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count && state->presentations_count < MAX_PRESENTATIONS; i++) {
        presentation *p = &state->presentations[state->presentations_count];
        if (!PyArg_ParseTuple(PyTuple_GetItem(table, i), "iiOOOi;a presentation",
                              &p->asked_family, &p->asked_proto, &p->family, &p->inet,
                              &p->proto, &p->smcproto)) {
            return NULL;
        }
        p->is_smc = PyLong_AsLong(p->family) == AF_SMC;
        Py_INCREF(p->family);
        Py_INCREF(p->inet);
        Py_INCREF(p->proto);
        state->presentations_count++;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(open_directly_doc,
"open_directly($module, on, /)\n--\n\n"
"Whether socket.__init__() opens an SMC socket of a known presentation by itself; else\n"
"and for all else it calls _init().");

static PyObject *
smcsock_open_directly(PyObject *module, PyObject *on)
{
    module_state *state = PyModule_GetState(module);
    atomic_store(&state->opens_directly, on == Py_True);
    Py_RETURN_NONE;
}

static PyMethodDef socket_methods[] = {
    METHOD("__init__", socket_initialize, init_doc),
    METHOD("bind", socket_bind, bind_doc),
    METHOD("listen", socket_listen, listen_doc),
    METHOD("_accept", socket_accept, accept_doc),
    METHOD("connect", socket_connect, connect_doc),
    METHOD("connect_ex", socket_connect_ex, connect_ex_doc),
    METHOD("_diag", socket_diag, diag_doc),
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(socket_methods_doc,
"Methods of _socket.socket as SMC needs them.\n\n"
"To be a base class in front of socket.socket, with AF_INET or AF_INET6, the family\n"
"of its addresses, for what is underneath.");

static PyType_Slot socket_methods_slots[] = {
    {Py_tp_methods, socket_methods},
    {Py_tp_doc, (void *)socket_methods_doc},
    {0, NULL},
};

static PyType_Spec socket_methods_spec = {
    .name = "smcsock._smcsock.SocketMethods",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = socket_methods_slots,
};

/* ---- Memory that processes share ------------------------------------------ */

PyDoc_STRVAR(map_shared_doc,
"map_shared($module, fd, size, /)\n--\n\n"
"The file of a descriptor as a memoryview that every process forked from now on\n"
"shares.  It stays when the descriptor is closed, and until the process ends: unlike\n"
"that of the module mmap it has no descriptor of its own.  Raises OSError.");

static PyObject *
smcsock_map_shared(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    int fd;
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError, "map_shared() takes 2 arguments (%zd given)", nargs);
    }
    if (!as_int(args[0], &fd)) {
        return NULL;
    }
    Py_ssize_t size = PyLong_AsSsize_t(args[1]);
    if (size == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (size <= 0) {
        PyErr_SetString(PyExc_ValueError, "size must be positive");
        return NULL;
    }
    void *memory = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *view = PyMemoryView_FromMemory(memory, size, PyBUF_WRITE);
    if (view == NULL) {
        munmap(memory, (size_t)size);
    }
    return view;
}

/* ---- Module ---------------------------------------------------------------- */

#define FUNCTION(name, function, doc) \
    {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL, doc}

static PyMethodDef module_methods[] = {
    FUNCTION("socket", smcsock_socket, socket_doc),
    FUNCTION("accept", smcsock_accept, accept_function_doc),
    FUNCTION("connect", smcsock_connect, connect_function_doc),
    FUNCTION("connect_ex", smcsock_connect_ex, connect_ex_function_doc),
    FUNCTION("opening", smcsock_opening, opening_doc),
    FUNCTION("inode", smcsock_inode, inode_doc),
    FUNCTION("replace", smcsock_replace, replace_doc),
    FUNCTION("map_shared", smcsock_map_shared, map_shared_doc),
    {"identify", smcsock_identify, METH_O, identify_doc},
    {"records", smcsock_records, METH_O, records_doc},
    {"parse", smcsock_parse, METH_O, parse_doc},
    FUNCTION("present", smcsock_present, present_doc),
    {"open_directly", smcsock_open_directly, METH_O, open_directly_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *
import_attribute(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL) {
        return NULL;
    }
    PyObject *attribute = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return attribute;
}

/* Finds the C function of a method of this kind, if it has one. */
static bool
find_function(PyObject *obj, const char *name, int kind, PyCFunction *function)
{
    PyObject *method = PyObject_GetAttrString(obj, name);
    if (method == NULL) {
        return false;
    }
    if (PyCFunction_Check(method) && PyCFunction_GetFlags(method) == kind) {
        *function = PyCFunction_GetFunction(method);
    }
    Py_DECREF(method);
    return true;
}

static bool
find_socket_functions(module_state *state)
{
    state->socket_type = import_attribute("_socket", "socket");
    if (state->socket_type == NULL) {
        return false;
    }
    state->socket_init =
        (initproc)PyType_GetSlot((PyTypeObject *)state->socket_type, Py_tp_init);
    /* Without a descriptor, as before __init__(). */
    PyObject *sock =
        PyObject_CallMethod(state->socket_type, "__new__", "O", state->socket_type);
    if (sock == NULL) {
        return false;
    }
    bool found =
        find_function(sock, "fileno", METH_NOARGS, &state->fileno_function) &&
        find_function(sock, "gettimeout", METH_NOARGS, &state->gettimeout_function) &&
        find_function(sock, "_accept", METH_NOARGS, &state->accept_function) &&
        find_function(sock, "connect", METH_O, &state->connect_function) &&
        find_function(sock, "connect_ex", METH_O, &state->connect_ex_function);
    Py_DECREF(sock);
    return found;
}

static bool
find_family_member(module_state *state)
{
    state->family = PyObject_GetAttrString(state->socket_type, "family");
    if (state->family == NULL) {
        return false;
    }
    *(void **)&state->get_family = PyType_GetSlot(Py_TYPE(state->family), Py_tp_descr_get);
    if (state->get_family == NULL) {
        PyErr_SetString(PyExc_TypeError, "_socket.socket has no member family");
        return false;
    }
    return true;
}

static bool
find_audit_function(module_state *state)
{
    state->audit = import_attribute("sys", "audit");
    if (state->audit == NULL) {
        return false;
    }
    if (PyCFunction_Check(state->audit) &&
        PyCFunction_GetFlags(state->audit) == METH_FASTCALL) {
        state->audit_function =
            (fastcall_function)(void (*)(void))PyCFunction_GetFunction(state->audit);
    }
    return true;
}

static bool
add_socket_methods(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &socket_methods_spec, NULL);
    if (type == NULL) {
        return false;
    }
    bool added = PyModule_AddType(module, (PyTypeObject *)type) == 0;
    Py_DECREF(type);
    return added;
}

PyDoc_STRVAR(handshake_interrupted_doc,
"A signal arrived during the SMC handshake (CLC) of a connect() without a timeout,\n"
"and its handler returned: the kernel cannot resume the handshake, and the socket is\n"
"of no more use.  A new one may be connected.\n\n"
"``errno`` is EINTR.  Any other InterruptedError out of connect() is one that the\n"
"handler raised.");

static bool
add_handshake_interrupted(PyObject *module, module_state *state)
{
    state->handshake_interrupted =
        PyErr_NewExceptionWithDoc("smcsock.HandshakeInterruptedError",
                                  handshake_interrupted_doc, PyExc_InterruptedError, NULL);
    return state->handshake_interrupted != NULL &&
           PyModule_AddObjectRef(module, "HandshakeInterruptedError",
                                 state->handshake_interrupted) == 0;
}

static bool
add_record_type(PyObject *module, module_state *state)
{
    state->record_type = (PyObject *)PyStructSequence_NewType(&record_desc);
    return state->record_type != NULL &&
           PyModule_AddObjectRef(module, "Record", state->record_type) == 0;
}

static bool
make_constants(module_state *state)
{
    return (state->str_socket_new = PyUnicode_InternFromString("socket.__new__")) != NULL &&
           (state->zero = PyLong_FromLong(0)) != NULL &&
           (state->stream = PyLong_FromLong(SOCK_STREAM)) != NULL;
}

static int
module_exec(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    if (!find_socket_functions(state) || !find_family_member(state) ||
        !find_audit_function(state) ||
        (state->gaierror = import_attribute("_socket", "gaierror")) == NULL ||
        (state->str_socket_bind = PyUnicode_InternFromString("socket.bind")) == NULL ||
        (state->str_socket_connect = PyUnicode_InternFromString("socket.connect")) == NULL ||
        !make_constants(state) ||
        (state->opening_type = PyType_FromModuleAndSpec(module, &opening_spec, NULL)) == NULL ||
        !add_handshake_interrupted(module, state) || !add_record_type(module, state) ||
        !add_socket_methods(module) ||
        PyModule_AddIntMacro(module, AF_SMC) < 0 ||
        PyModule_AddIntMacro(module, SMCPROTO_SMC) < 0 ||
        PyModule_AddIntMacro(module, SMCPROTO_SMC6) < 0 ||
        PyModule_AddIntConstant(module, "IPPROTO_SMC", SMCSOCK_IPPROTO_SMC) < 0 ||
        PyModule_AddIntMacro(module, SOL_SMC) < 0 ||
        PyModule_AddIntMacro(module, SMC_LIMIT_HS) < 0) {
        return -1;
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);
    Py_VISIT(state->gaierror);
    Py_VISIT(state->socket_type);
    Py_VISIT(state->opening_type);
    Py_VISIT(state->own_type);
    for (int i = 0; i < MEMBERS; i++) {
        Py_VISIT(state->members[i]);
    }
    Py_VISIT(state->zero);
    Py_VISIT(state->stream);
    for (size_t i = 0; i < state->presentations_count; i++) {
        Py_VISIT(state->presentations[i].family);
        Py_VISIT(state->presentations[i].inet);
        Py_VISIT(state->presentations[i].proto);
    }
    Py_VISIT(state->handshake_interrupted);
    Py_VISIT(state->record_type);
    Py_VISIT(state->audit);
    Py_VISIT(state->family);
    Py_VISIT(state->str_socket_bind);
    Py_VISIT(state->str_socket_connect);
    return 0;
}

static int
module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->gaierror);
    Py_CLEAR(state->socket_type);
    Py_CLEAR(state->opening_type);
    Py_CLEAR(state->own_type);
    for (int i = 0; i < MEMBERS; i++) {
        Py_CLEAR(state->members[i]);
    }
    Py_CLEAR(state->str_socket_new);
    Py_CLEAR(state->zero);
    Py_CLEAR(state->stream);
    while (state->presentations_count > 0) {
        presentation *p = &state->presentations[--state->presentations_count];
        Py_CLEAR(p->family);
        Py_CLEAR(p->inet);
        Py_CLEAR(p->proto);
    }
    Py_CLEAR(state->handshake_interrupted);
    Py_CLEAR(state->record_type);
    Py_CLEAR(state->audit);
    Py_CLEAR(state->family);
    Py_CLEAR(state->str_socket_bind);
    Py_CLEAR(state->str_socket_connect);
    return 0;
}

static void
module_free(void *module)
{
    module_clear((PyObject *)module);
}

/* One abi3 binary serves every CPython from 3.11 on, and an unknown slot is an
   error to an older one: each def leaves out the slots that came after it.  The
   numbers are part of the stable ABI. */
#define SLOT_MULTIPLE_INTERPRETERS 3 /* Py_mod_multiple_interpreters, 3.12 */
#define SLOT_GIL 4                   /* Py_mod_gil, 3.13 */
#define PER_INTERPRETER_GIL ((void *)2)
#define GIL_NOT_USED ((void *)1)

static PyModuleDef_Slot slots[] = {
    {SLOT_GIL, GIL_NOT_USED},
    {SLOT_MULTIPLE_INTERPRETERS, PER_INTERPRETER_GIL},
    {Py_mod_exec, (void *)module_exec},
    {0, NULL},
};

PyDoc_STRVAR(module_doc, "The system calls of AF_SMC sockets.");

#define MODULE_DEF(first_slot)                                                        \
    {                                                                                 \
        PyModuleDef_HEAD_INIT, .m_name = "smcsock._smcsock", .m_doc = module_doc,     \
        .m_size = sizeof(module_state), .m_methods = module_methods, .m_slots = (first_slot), \
        .m_traverse = module_traverse, .m_clear = module_clear, .m_free = module_free, \
    }

static struct PyModuleDef def_3_13 = MODULE_DEF(slots);
static struct PyModuleDef def_3_12 = MODULE_DEF(slots + 1);
static struct PyModuleDef def_3_11 = MODULE_DEF(slots + 2);

PyMODINIT_FUNC
PyInit__smcsock(void)
{
    if (Py_Version >= 0x030d0000) {
        return PyModuleDef_Init(&def_3_13);
    }
    if (Py_Version >= 0x030c0000) {
        return PyModuleDef_Init(&def_3_12);
    }
    return PyModuleDef_Init(&def_3_11);
}
