// Boost.Interprocess's message_queue as functions of C. Each returns 0 for success.
#include <boost/interprocess/ipc/message_queue.hpp>

using boost::interprocess::message_queue;

extern "C" {

void *queue_create(const char *name, size_t messages, size_t bytes) {
    try {
        return new message_queue(boost::interprocess::create_only, name, messages, bytes);
    } catch (...) {
        return nullptr;
    }
}

void *queue_attach(const char *name) {
    try {
        return new message_queue(boost::interprocess::open_only, name);
    } catch (...) {
        return nullptr;
    }
}

int queue_send(void *queue, const void *message, size_t bytes) {
    try {
        static_cast<message_queue *>(queue)->send(message, bytes, 0);
        return 0;
    } catch (...) {
        return -1;
    }
}

// The length of the message, or -1.
long queue_receive(void *queue, void *message, size_t bytes) {
    try {
        message_queue::size_type received;
        unsigned int priority;
        static_cast<message_queue *>(queue)->receive(message, bytes, received, priority);
        return static_cast<long>(received);
    } catch (...) {
        return -1;
    }
}

void queue_close(void *queue) { delete static_cast<message_queue *>(queue); }

int queue_remove(const char *name) { return message_queue::remove(name) ? 0 : -1; }
}
