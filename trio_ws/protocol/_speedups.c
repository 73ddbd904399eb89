/* Optional C implementations: masking (RFC 6455 section 5.3), reading and writing of the common frame, also from and
   to a socket, the size of decoded msgpack, the packets of plain calls and the calls themselves, the first step of a
   coroutine, the messages of bursts, many write buffers at once, and a round of the shared reader. masking.py,
   _accel.py, decoded_size.py, inline_call.py, write_buffer.py and single_messages.py have the same functions in Python,
   and use these if they could be built; packets.py reads and writes all packets, rpc/session.py and rpc/incoming.py
   handle all calls, websocket/_checkpoint.py checks for a cancellation, and WebSocket in websocket/connection.py receives
   and sends all messages.

   Invariants:

   - No state is kept between two calls. The only arguments that are modified are the containers that messages are
     appended to and taken from, the buffers of connections, and payloads that fill_payload fills. passed_checkpoint
     counts in trio's task.
   - Code of the application runs only in first_step and handle_single_messages. It may change anything, so what is
     needed after it is looked up again, and the objects are held.
   - A descriptor belongs to the caller, who has not closed it.
   - The GIL is not released. Processing 64 KiB takes a few microseconds, and releasing it would cost more. The
     calls of the system do not wait, and move at most as much. flush_row makes up to 32 of them, which takes a fifth
     of a millisecond, and handle_single_messages two for each connection that is ready.
   - Calls may run in parallel without a GIL, or with one for each interpreter. The only state of the module is
     per interpreter, and is set when the module is loaded. */

#include "speedups/common.h"
#include "speedups/frames.h"
#include "speedups/packets.h"
#include "speedups/tasks.h"
#include "speedups/buffers.h"
#include "speedups/messages.h"
#include "speedups/calls.h"
#include "speedups/turns.h"

static PyMethodDef methods[] = {
    {"passed_checkpoint", passed_checkpoint, METH_NOARGS, passed_checkpoint_doc},
    {"watch_connection", (PyCFunction)(void (*)(void))watch_connection, METH_FASTCALL, watch_connection_doc},
    {"release", release, METH_O, release_doc},
    {"keep", (PyCFunction)(void (*)(void))keep, METH_FASTCALL, keep_doc},
    {"keep_message", (PyCFunction)(void (*)(void))keep_message, METH_FASTCALL, keep_message_doc},
    {"send_at_once", (PyCFunction)(void (*)(void))send_at_once, METH_FASTCALL, send_at_once_doc},
    {"have_types", (PyCFunction)(void (*)(void))have_types, METH_FASTCALL, have_types_doc},
    {"buffer_frame", (PyCFunction)(void (*)(void))buffer_frame, METH_FASTCALL, buffer_frame_doc},
    {"buffer_item", (PyCFunction)(void (*)(void))buffer_item, METH_FASTCALL, buffer_item_doc},
    {"watch_buffers", (PyCFunction)(void (*)(void))watch_buffers, METH_FASTCALL, watch_buffers_doc},
    {"buffer_each", (PyCFunction)(void (*)(void))buffer_each, METH_FASTCALL, buffer_each_doc},
    {"watch_waits", (PyCFunction)(void (*)(void))watch_waits, METH_FASTCALL, watch_waits_doc},
    {"watch_requests", (PyCFunction)(void (*)(void))watch_requests, METH_FASTCALL, watch_requests_doc},
    {"begin_call", (PyCFunction)(void (*)(void))begin_call, METH_FASTCALL, begin_call_doc},
    {"wait_task", wait_task, METH_O, wait_task_doc},
    {"watch_task", (PyCFunction)(void (*)(void))watch_task, METH_FASTCALL, watch_task_doc},
    {"plain_call", plain_call, METH_O, plain_call_doc},
    {"take_responses", (PyCFunction)(void (*)(void))take_responses, METH_FASTCALL, take_responses_doc},
    {"request_frame", (PyCFunction)(void (*)(void))request_frame, METH_FASTCALL, request_frame_doc},
    {"result_frame", (PyCFunction)(void (*)(void))result_frame, METH_FASTCALL, result_frame_doc},
    {"msgpack_size", (PyCFunction)(void (*)(void))msgpack_size, METH_FASTCALL, msgpack_size_doc},
    {"first_step", (PyCFunction)(void (*)(void))first_step, METH_FASTCALL, first_step_doc},
    {"mask", (PyCFunction)(void (*)(void))mask, METH_FASTCALL, mask_doc},
    {"new_payload", new_payload, METH_O, new_payload_doc},
    {"fill_payload", (PyCFunction)(void (*)(void))fill_payload, METH_FASTCALL, fill_payload_doc},
    {"take_frames", (PyCFunction)(void (*)(void))take_frames, METH_FASTCALL, take_frames_doc},
    {"whole_frame", (PyCFunction)(void (*)(void))whole_frame, METH_FASTCALL, whole_frame_doc},
#ifdef HAS_SOCKETS
    {"receive_frame", (PyCFunction)(void (*)(void))receive_frame, METH_FASTCALL, receive_frame_doc},
    {"send_frame", (PyCFunction)(void (*)(void))send_frame, METH_FASTCALL, send_frame_doc},
    {"watch_reader", (PyCFunction)(void (*)(void))watch_reader, METH_FASTCALL, watch_reader_doc},
    {"watch_listener", (PyCFunction)(void (*)(void))watch_listener, METH_FASTCALL, watch_listener_doc},
    {"handle_single_messages", (PyCFunction)(void (*)(void))handle_single_messages, METH_FASTCALL,
     handle_single_messages_doc},
    {"watch_calls", (PyCFunction)(void (*)(void))watch_calls, METH_FASTCALL, watch_calls_doc},
    {"start_call", (PyCFunction)(void (*)(void))start_call, METH_FASTCALL, start_call_doc},
    {"flush_row", (PyCFunction)(void (*)(void))flush_row, METH_FASTCALL, flush_row_doc},
#endif
    {NULL, NULL, 0, NULL},
};

/* Increase it, here and in masking.py, when a function is added or changes what it does: a file that was built from
   an older source is then not used. */
#define INTERFACE 20

static int
module_exec(PyObject *module)
{
    module_state *state = PyModule_GetState(module);

    if (PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0)
        return -1;
    state->append = PyUnicode_InternFromString("append");
    state->task = PyUnicode_InternFromString("task");
    state->popleft = PyUnicode_InternFromString("popleft");
    state->release = PyUnicode_InternFromString("release");
    state->keep = PyUnicode_InternFromString("keep");
    state->notify_input = PyUnicode_InternFromString("notify_input");
    state->input_arrived = PyUnicode_InternFromString("input_arrived");
    state->leave_first = PyUnicode_InternFromString("_leave_first");
    state->value = PyUnicode_InternFromString("value");
    state->text = PyUnicode_InternFromString("text");
    state->binary = PyUnicode_InternFromString("binary");
    state->flush = PyUnicode_InternFromString("flush");
    state->first_call = PyUnicode_InternFromString("first_call");
    state->buffer = PyUnicode_InternFromString("buffer");
    state->message_received = PyUnicode_InternFromString("message_received");
    state->reader_driven = PyUnicode_InternFromString("reader_driven");
    state->abort = PyUnicode_InternFromString("abort");
    state->break_off = PyUnicode_InternFromString("_break");
    state->append_frame = PyUnicode_InternFromString("_append");
    state->drain_soon = PyUnicode_InternFromString("_drain_soon");
    state->failed = PyUnicode_InternFromString("failed");
    state->no_key = PyBytes_FromStringAndSize(NULL, 0);
    state->unwrap = PyUnicode_InternFromString("unwrap");
    state->no_args = PyTuple_New(0);
    state->task_wait = (PyTypeObject *)PyType_FromModuleAndSpec(module, &task_wait_spec, NULL);
    state->next_method = (PyTypeObject *)PyType_FromModuleAndSpec(module, &next_method_spec, NULL);
    state->next_message = (PyTypeObject *)PyType_FromModuleAndSpec(module, &next_message_spec, NULL);
    return PyErr_Occurred() ? -1 : PyModule_AddType(module, state->next_method);
}

static int
module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);

    if (state != NULL) {
        for (int i = 0; i < SLOTS; i++)
            Py_CLEAR(state->slots[i].type);
        for (int i = 0; i < PLACES; i++)
            Py_CLEAR(state->places[i].type);
        for (int i = 0; i < BUFFER_PLACES; i++)
            Py_CLEAR(state->buffer_places[i].type);
        for (int i = 0; i < TURN_PLACES; i++)
            Py_CLEAR(state->turn_places[i].type);
        Py_CLEAR(state->message_received);
        Py_CLEAR(state->reader_driven);
        Py_CLEAR(state->abort);
        Py_CLEAR(state->break_off);
        Py_CLEAR(state->append_frame);
        Py_CLEAR(state->drain_soon);
        Py_CLEAR(state->failed);
        for (int i = 0; i < CALL_PLACES; i++)
            Py_CLEAR(state->call_places[i].type);
        for (int i = 0; i < REQUEST_PLACES; i++)
            Py_CLEAR(state->request_places[i].type);
        Py_CLEAR(state->ask_for_task);
        Py_CLEAR(state->first_call);
        Py_CLEAR(state->no_parts);
        Py_CLEAR(state->flush);
        Py_CLEAR(state->context);
        Py_CLEAR(state->attributes);
        Py_CLEAR(state->outcome_value.type);
        Py_CLEAR(state->wait);
        Py_CLEAR(state->abort_name);
        Py_CLEAR(state->trap);
        Py_CLEAR(state->task_wait);
        Py_CLEAR(state->no_args);
        Py_CLEAR(state->unwrap);
        Py_CLEAR(state->append);
        Py_CLEAR(state->task);
        Py_CLEAR(state->release);
        Py_CLEAR(state->keep);
        Py_CLEAR(state->notify_input);
        Py_CLEAR(state->no_messages);
        Py_CLEAR(state->reschedule);
        Py_CLEAR(state->wake);
        Py_CLEAR(state->input_arrived);
        Py_CLEAR(state->leave_first);
        Py_CLEAR(state->queue);
        Py_CLEAR(state->queue_popleft);
        Py_CLEAR(state->popleft);
        Py_CLEAR(state->open);
        Py_CLEAR(state->epoll);
        Py_CLEAR(state->value);
        Py_CLEAR(state->text);
        Py_CLEAR(state->binary);
        Py_CLEAR(state->buffer);
        Py_CLEAR(state->no_key);
        Py_CLEAR(state->next_method);
        Py_CLEAR(state->next_message);
    }
    return 0;
}

static void
module_free(void *module)
{
    module_clear(module);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);

    if (state != NULL) {
        Py_VISIT(state->context);
        Py_VISIT(state->attributes);
        Py_VISIT(state->outcome_value.type);
        Py_VISIT(state->no_messages);
        Py_VISIT(state->reschedule);
        Py_VISIT(state->wake);
        Py_VISIT(state->wait);
        Py_VISIT(state->trap);
        Py_VISIT(state->task_wait);
        Py_VISIT(state->next_method);
        Py_VISIT(state->next_message);
        for (int i = 0; i < SLOTS; i++)
            Py_VISIT(state->slots[i].type);
        for (int i = 0; i < PLACES; i++)
            Py_VISIT(state->places[i].type);
        for (int i = 0; i < BUFFER_PLACES; i++)
            Py_VISIT(state->buffer_places[i].type);
        for (int i = 0; i < TURN_PLACES; i++)
            Py_VISIT(state->turn_places[i].type);
        for (int i = 0; i < CALL_PLACES; i++)
            Py_VISIT(state->call_places[i].type);
        for (int i = 0; i < REQUEST_PLACES; i++)
            Py_VISIT(state->request_places[i].type);
        Py_VISIT(state->ask_for_task);
        Py_VISIT(state->no_parts);
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)module_exec},
#ifdef Py_mod_multiple_interpreters /* 3.12 */
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil /* 3.13 */
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "trio_ws.protocol._speedups",
    .m_size = sizeof(module_state),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&definition);
}
