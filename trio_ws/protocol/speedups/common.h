/* What the other files share: sizes, the state of the module, and attributes of instances of classes with slots. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stdint.h>
#include <string.h>

/* Where a descriptor is all that a call of the system needs, and a single call can do without waiting. */
#ifdef __linux__
#define HAS_SOCKETS
#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>
#endif

/* The longest header: two bytes, eight bytes of length, four bytes of key. */
#define LONGEST_HEAD 14
/* The maximum number of frames that one call of take_frames reads, as in _accel.py. */
#define MOST_FRAMES 1024
/* The longest name of a method or id of a call, as in codecs/base.py. */
#define MOST_NAME 256

/* As in websocket/connection.py and write_buffer.py. */
#define LARGE (16 * 1024)
#define SENDS_IN_A_ROW 256
#define DIRECT_SEND 8
/* As in ledger.py. */
#define OVERHEAD 128
#define FLUSH_AT 65536
#define FLUSH_COST 8192
/* As in websocket/transport.py and single_messages.py. */
#define READ_SIZE 65536
#define SEND_SIZE (1025 * 1024)
#define MESSAGE_COST 1024
#define END_COST 8192
/* Bytes that are read onto the stack, and the longest payload that is sent from there. */
#define FIRST_READ 4096
#define JOINED 4096

/* An attribute of the instances of a class with slots. */
typedef struct {
    PyTypeObject *type;
    Py_ssize_t offset;
} slot;

/* Those of trio that passed_checkpoint needs: three of a task, one of a cancel status, one of the runner. */
enum { STATUS, POINTS, RUNNER, CANCELLED, INTERRUPTED, SLOTS };

/* Those that buffer_each and flush_row need, of a WriteBuffer and a SocketTransport. */
enum { WAITING_PARTS, WAITING_SIZE, FLUSH_DUE, DRAINING, BROKEN, DEFERRED, SENT, TRANSPORT, DESCRIPTOR, BUFFER_PLACES };

/* Those that next_message and send_at_once need, of a WebSocket, a ReceiveBuffer, a WriteBuffer, a WebSocketMessage, a
   Reader, a ClosingHandshake and a Notification. */
enum { WRITE_BUFFER, RECEIVE_BUFFER, READER, CLOSING, SENDS, MESSAGES, HALF_TAKEN, SIZE, LIMIT, SCHEDULED, PARTS, KIND,
       PAYLOAD, READ_BY, READ_INTO, INPUT_NOTICE, STATE, ANSWER_DUE, WAITING_TASK,
       /* of a ReceiveBuffer, for keep_message and release */
       PARSER, CHARGED, ALONE, LONGEST_ALONE, EXPECTED_ALONE, UNPARSED, DROPPED, PEER_CLOSED, PLACES };

/* Those that handle_single_messages needs: of a Reader and a ReceiveBuffer, and of a ListenerSession and a
   MessageListener. */
enum { OBSERVER, INPUT, BYPASS, MASKED, SINCE_CHECK,
       DRIVEN, LISTENER, CLIENT, OUTPUT, CONTEXT, ARGUMENTS, RAW, ASYNC, FUNCTION, CONVERT, ENCODER, TURN_PLACES };

/* Those that start_call needs, of an RPCSession, a PacketTransport, an IncomingCalls, an OutgoingCalls, a Method and a
   ReceiveBuffer. */
enum { SESSION_DRIVEN, SESSION_UNDECIDED, SESSION_TRANSPORT, SESSION_INCOMING, SESSION_OUTGOING,
       TRANSPORT_OVER, TRANSPORT_MEASURED, TRANSPORT_MEASURED_FROM, TRANSPORT_HIGH_WATER, TRANSPORT_BATCH,
       TRANSPORT_WRITTEN, TRANSPORT_READ, TRANSPORT_READER, TRANSPORT_CLOSING, TRANSPORT_PLAIN,
       INCOMING_WAITING, INCOMING_ACTIVE, INCOMING_MAX, INCOMING_METHODS, INCOMING_LIMIT, INCOMING_CLOSING,
       INCOMING_RUNNING, INCOMING_CONNECTION, INCOMING_POOL,
       OUTGOING_BURST,
       METHOD_PLAIN, METHOD_KIND, METHOD_FUNCTION, METHOD_TYPES,
       READ_HELD, READ_MAX_HELD, READ_RECEIVED, CALL_PLACES };

/* Those that begin_call needs, of an OutgoingCalls, a PacketTransport, a WriteBuffer and a PendingCall. */
enum { REQUEST_TRANSPORT, REQUEST_PENDING, REQUEST_ID, REQUEST_BURST, REQUEST_PLAIN, REQUEST_CLOSING, REQUEST_WRITTEN,
       REQUEST_HIGH_WATER, REQUEST_SENT, PENDING_ID, PENDING_OUTGOING, PENDING_TASK, PENDING_OFFSET, REQUEST_PLACES };

/* The state of the module, one for each interpreter. */
typedef struct {
    PyObject *append, *task, *popleft, *value, *text, *binary, *buffer; /* texts */
    PyObject *no_key; /* b"" */
    PyTypeObject *next_method, *next_message;
    slot places[PLACES]; /* from watch_connection */
    /* From there, too: deque and its method, the states of a connection that is open, and read by the shared reader; the
       queue of all connections without messages; trio's reschedule, and the outcome to call it with. */
    PyObject *queue, *queue_popleft, *open, *epoll, *no_messages, *reschedule, *wake;
    PyObject *release, *keep, *notify_input, *input_arrived, *leave_first; /* texts */
    /* From watch_buffers; the list is that of all write buffers that are empty. */
    slot buffer_places[BUFFER_PLACES];
    PyObject *no_parts, *flush; /* the list, "flush" */
    slot turn_places[TURN_PLACES]; /* from watch_reader and watch_listener */
    PyObject *message_received, *reader_driven, *abort, *break_off, *append_frame, *drain_soon, *failed; /* texts */
    slot call_places[CALL_PLACES]; /* from watch_calls */
    slot request_places[REQUEST_PLACES]; /* from watch_requests, with trio's current_task */
    PyObject *ask_for_task, *first_call; /* and "first_call" */
    /* From watch_task: the thread-local object in which trio keeps the current task, and the attributes. */
    PyObject *context;
    slot slots[SLOTS];
    /* The attributes of that object in the thread that asked last. */
    PyObject *attributes;
    uint64_t thread;
    /* From watch_waits: wait_task_rescheduled, what it yields, the name of the attribute that is its argument, and the
       value of a ReusableOutcome. */
    PyObject *wait, *abort_name;
    PyTypeObject *trap;
    slot outcome_value;
    PyTypeObject *task_wait;
    PyObject *no_args, *unwrap; /* (), "unwrap" */
} module_state;

/* Look up an attribute of the instances of a class. Return 0 if it has no slot, -1 with an exception. */
static int
find_slot(slot *found, PyObject *type, const char *name)
{
    PyObject *member;
    int is_slot;

    if (!PyType_Check(type))
        return 0;
    member = PyObject_GetAttrString(type, name);
    if (member == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    is_slot = Py_IS_TYPE(member, &PyMemberDescr_Type) &&
              ((PyMemberDescrObject *)member)->d_member->type == T_OBJECT_EX;
    if (is_slot) {
        found->offset = ((PyMemberDescrObject *)member)->d_member->offset;
        Py_XSETREF(found->type, (PyTypeObject *)Py_NewRef(type));
    }
    Py_DECREF(member);
    return is_slot;
}

/* Return the place of the attribute of an object; NULL if that is of another class. */
static PyObject **
in_slot(const slot *where, PyObject *object)
{
    return object != NULL && Py_IS_TYPE(object, where->type) ? (PyObject **)((char *)object + where->offset) : NULL;
}

/* Return what is in a slot; NULL if it is empty or the object is of another class. */
static PyObject *
value_in(const slot *where, PyObject *object)
{
    PyObject **place = in_slot(where, object);

    return place == NULL ? NULL : *place;
}

static void
set_value(const slot *where, PyObject *object, PyObject *value)
{
    PyObject **place = in_slot(where, object);

    Py_XSETREF(*place, Py_NewRef(value));
}

/* Take the exception that was raised. */
static PyObject *
raised(void)
{
    PyObject *type, *exception, *trace;

    PyErr_Fetch(&type, &exception, &trace);
    PyErr_NormalizeException(&type, &exception, &trace);
    if (trace != NULL)
        PyException_SetTraceback(exception, trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return exception;
}

static int
call_method(PyObject *object, PyObject *name, PyObject *argument)
{
    PyObject *result = argument == NULL ? PyObject_CallMethodNoArgs(object, name)
                                        : PyObject_CallMethodOneArg(object, name, argument);

    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Free an object of which only tp_clear is particular. */
static void
free_tracked(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    type->tp_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

/* Return the number in a slot, or -1. */
static Py_ssize_t
number_in(const slot *where, PyObject *object)
{
    PyObject **number = in_slot(where, object);
    Py_ssize_t value = number == NULL || *number == NULL ? -1 : PyLong_AsSsize_t(*number);

    if (value == -1 && PyErr_Occurred())
        PyErr_Clear();
    return value;
}

static int
set_number(const slot *where, PyObject *object, Py_ssize_t value)
{
    PyObject *number = PyLong_FromSsize_t(value), **place = in_slot(where, object);

    if (number == NULL)
        return -1;
    Py_XSETREF(*place, number);
    return 0;
}
