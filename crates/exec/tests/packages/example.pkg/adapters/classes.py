"""Classes and instances as adapters."""


class Greeter:
    def __init__(self):
        self.greeting = "hello"

    async def greet(self, context):
        return {"says": "%s %s" % (self.greeting, context.params["name"])}

    @staticmethod
    def shout(context):
        return {"says": context.params["name"].upper()}

    def run(self, context):
        return {"says": "run by %s" % type(self).__name__}


class Both:
    async def async_run(self, context):
        return {"ran": "async_run"}

    def run(self, context):
        return {"ran": "run"}


both = Both()
only_run = Greeter()
